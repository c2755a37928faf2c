#!lua flags=no-writes
-- find.lua — the hold of one order.
--
-- KEYS  1 item   2 holds
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts   3 order id
--
-- Returns { gate } unless the gate is open; { 0 } when there is no such hold;
-- else { 0, hold, sale, price_cents, currency }

--@include gate

assert(#KEYS == 2 and #ARGV == 3 and ARGV[1] == '1', 'find.lua: expected 2 keys, 3 arguments, schema 1')
local epoch_min = tonumber(ARGV[2])
assert(epoch_min, 'find.lua: the epoch must be a number')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'price', 'currency')
if not item then
  return { BROKEN }
end
local gate = gate_of(item[1], item[2], item[3], epoch_min)
if gate ~= OPEN then
  return { gate }
end
local hold = try('HGET', KEYS[2], ARGV[3])
local price = tonumber(item[4] or nil)
if hold == nil or not (item[3] and price and item[5]) then
  return { BROKEN }
end
if not hold then
  return { OPEN }
end
return { OPEN, hold, item[3], price, item[5] }
