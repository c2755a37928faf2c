#!lua flags=allow-oom
-- lock_renew.lua — keeps a lock for longer, if it is still ours.
--
-- KEYS  1 lock
-- ARGV  1 schema (1)   2 owner token   3 ms from now on
--
-- Returns 1 kept; 0 somebody else's or gone.

assert(#KEYS == 1 and #ARGV == 3 and ARGV[1] == '1', 'lock_renew.lua: expected 1 key, 3 arguments, schema 1')
if redis.call('GET', KEYS[1]) == ARGV[2] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 0
