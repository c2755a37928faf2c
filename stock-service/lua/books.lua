#!lua flags=no-writes
-- books.lua — one atomic look at everything an item's books consist of; the caller adds it up.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled
-- ARGV  1 schema (1)
--
-- Returns { gate } unless the gate is open, else { 0, epoch, total, available, holds (id, hold, ..),
--         quantities of the buyers (..), unsettled order ids (..) }

--@include gate

assert(#KEYS == 4 and #ARGV == 1 and ARGV[1] == '1', 'books.lua: expected 4 keys and schema 1')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'total', 'available')
local holds, buyers = try('HGETALL', KEYS[2]), try('HVALS', KEYS[3])
local unsettled = try('ZRANGE', KEYS[4], 0, -1)
if not (item and holds and buyers and unsettled) then
  return { BROKEN }
end
local gate = gate_of(item[1], item[2], item[3], 0)
if gate ~= OPEN then
  return { gate }
end
local total, available = tonumber(item[4] or nil), tonumber(item[5] or nil)
if not (total and available) then
  return { BROKEN }
end
return { OPEN, tonumber(item[2]), total, available, holds, buyers, unsettled }
