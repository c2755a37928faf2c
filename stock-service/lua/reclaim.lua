#!lua flags=allow-oom
-- reclaim.lua — closes the gate of an item with units that were withdrawn long ago and never claimed by a lower total.
--
-- KEYS  1 item
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts   3 ms after which a withdrawal is not claimed any more
--
-- Returns 1 when it has closed the gate, else 0. The load that opens it takes everything from the source of truth, and
-- its epoch is what keeps whoever withdrew the units from lowering the total after all: giving them back here without
-- it could put units on offer that a total, about to be lowered, does not have.

--@include gate

assert(#KEYS == 1 and #ARGV == 3 and ARGV[1] == '1', 'reclaim.lua: expected 1 key, 3 arguments, schema 1')
local epoch_min, after_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
assert(epoch_min and after_ms, 'reclaim.lua: epoch and time must be numbers')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'withdrawn', 'withdrawn_ms')
if not item or gate_of(item[1], item[2], item[3], epoch_min) ~= OPEN then
  return 0
end
local withdrawn, withdrawn_ms = tonumber(item[4] or '0') or 0, tonumber(item[5] or '0') or 0
if withdrawn <= 0 or now_ms() - withdrawn_ms < after_ms then
  return 0
end
redis.call('HDEL', KEYS[1], 'run_id')
return 1
