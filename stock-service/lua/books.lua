#!lua flags=no-writes
-- books.lua — one atomic look at everything an item's books consist of, if that is little; the caller adds it up.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts
--       3 most entries that each of the keys 2 to 4 may have to be read here; -1: read none
--
-- Returns { gate } unless the gate is open, else { 0, epoch, total, available, withheld, number of holds }, followed by
--         { holds (id, hold, ..), buyers (user, quantity, ..), unsettled order ids (..) } unless there are too many.
--         Those are read page by page: a script that reads them would keep every buyer waiting.

--@include gate

assert(#KEYS == 4 and #ARGV == 3 and ARGV[1] == '1', 'books.lua: expected 4 keys, 3 arguments, schema 1')
local epoch_min, most = tonumber(ARGV[2]), tonumber(ARGV[3])
assert(epoch_min and most, 'books.lua: the epoch and the most entries must be numbers')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'total', 'available', 'withheld')
local holds, buyers, unsettled = try('HLEN', KEYS[2]), try('HLEN', KEYS[3]), try('ZCARD', KEYS[4])
if not (item and holds and buyers and unsettled) then
  return { BROKEN }
end
local gate = gate_of(item[1], item[2], item[3], epoch_min)
if gate ~= OPEN then
  return { gate }
end
local total, available, withheld = tonumber(item[4] or nil), tonumber(item[5] or nil), tonumber(item[6] or '0')
if not (total and available and withheld) then
  return { BROKEN }
end
local reply = { OPEN, tonumber(item[2]), total, available, withheld, holds }
if math.max(holds, buyers, unsettled) <= most then
  reply[7], reply[8] = redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])
  reply[9] = redis.call('ZRANGE', KEYS[4], 0, -1)
end
return reply
