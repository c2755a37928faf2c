#!lua flags=allow-oom
-- keep_closed.lua — closes an item's gate until an operator has removed the key of the alarm.
--
-- KEYS  1 item   2 alarm
-- ARGV  1 schema (1)   2 how many alarms keep it closed   3 why
--
-- Returns 1 when it was open or nobody had been alarmed so far, else 0. Repeating is safe.
--
-- Leaves `behind` in the item's hash: when the alarm's key is gone and this is still there, somebody has looked, and the
-- next load takes what the source of truth has, whatever the books here say. load_commit.lua makes the hash anew.

--@include gate

assert(#KEYS == 2 and #ARGV == 3 and ARGV[1] == '1', 'keep_closed.lua: expected 2 keys, 3 arguments, schema 1')
local times = tonumber(ARGV[2])
assert(times and times >= 1, 'keep_closed.lua: bad number of alarms')

if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then
  redis.call('UNLINK', KEYS[2])
end
local known = tonumber(redis.call('HGET', KEYS[2], 'times') or '0') or 0
redis.call('HSET', KEYS[2], 'times', math.max(known, times), 'at_ms', now_ms(), 'why', ARGV[3])
local opened = false
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  redis.call('HSET', KEYS[1], 'behind', 1)
  opened = redis.call('HDEL', KEYS[1], 'run_id') == 1
end
return (opened or known < times) and 1 or 0
