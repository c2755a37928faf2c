#!lua flags=allow-oom
-- lock_take.lua — takes a lock that is free, or keeps it for longer if it is ours.
--
-- KEYS  1 lock
-- ARGV  1 schema (1)   2 owner token   3 ms from now on
--
-- Returns 1 ours; 0 somebody else's. What cannot be a lock, a key of another type or one that never ends, is taken over:
-- nobody would give it back.

--@include gate

assert(#KEYS == 1 and #ARGV == 3 and ARGV[1] == '1', 'lock_take.lua: expected 1 key, 3 arguments, schema 1')
local held = try('GET', KEYS[1])
if held and held ~= ARGV[2] and redis.call('PTTL', KEYS[1]) > 0 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
