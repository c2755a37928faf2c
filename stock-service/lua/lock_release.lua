#!lua flags=allow-oom
-- lock_release.lua — gives a lock back, if it is still ours.
--
-- KEYS  1 lock
-- ARGV  1 schema (1)   2 owner token
--
-- Returns 1 released; 0 somebody else's or gone.

--@include gate

assert(#KEYS == 1 and #ARGV == 2 and ARGV[1] == '1', 'lock_release.lua: expected 1 key, 2 arguments, schema 1')
if try('GET', KEYS[1]) == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
