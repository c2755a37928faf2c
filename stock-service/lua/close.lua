#!lua flags=allow-oom
-- close.lua — closes the gate of an item whose books were found to contradict themselves.
--
-- KEYS  1 item   2 alarm
-- ARGV  1 schema (1)   2 epoch in which they were found so   3 what is wrong   4 ms after which an alarm is forgotten
--
-- Returns how often the alarm has been raised; 0 when the gate is not open with this epoch: nothing was done, since the
-- books that were looked at are not these.

--@include gate

assert(#KEYS == 2 and #ARGV == 4 and ARGV[1] == '1', 'close.lua: expected 2 keys, 4 arguments, schema 1')
local epoch, calm_ms = tonumber(ARGV[2]), tonumber(ARGV[4])
assert(epoch and calm_ms, 'close.lua: epoch and time must be numbers')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale')
if not item or gate_of(item[1], item[2], item[3], epoch) ~= OPEN or tonumber(item[2]) ~= epoch then
  return 0
end
return close_as_wrong(KEYS[1], KEYS[2], ARGV[3], calm_ms)
