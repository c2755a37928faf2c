#!lua flags=no-writes
-- look.lua — what the catalogue shows of one item, and whether its keys are sound. Changes nothing.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 late   7 alarm   8 places
-- ARGV  1 schema (1)
--
-- Returns { gate, now_ms, times, fields }: times: how often the books were found wrong, 0 when the key of the alarm makes
--   no sense; with the gate open or closed, all that is left of
--   fields = { epoch, version, sale, state, starts_ms, ends_ms, limit, total, available, withheld, price_cents,
--              currency, ended_ms (0: not by an admin), holds, unsettled, score of the oldest unsettled (0: none),
--              kept late orders, waiting room (0, 1), challenge (0, 1) }
-- else { gate, now_ms, times }.

--@include gate

assert(#KEYS == 8 and #ARGV == 1 and ARGV[1] == '1', 'look.lua: expected 8 keys and schema 1')
local now = now_ms()
local times = tonumber((try('HMGET', KEYS[7], 'times') or {})[1] or '0') or 0
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'version', 'state', 'starts_ms', 'ends_ms', 'limit',
  'total', 'available', 'withheld', 'price', 'currency', 'ended_ms', 'waiting_room',
  'challenge')
local holds, unsettled, late = try('HLEN', KEYS[2]), try('ZCARD', KEYS[4]), try('HLEN', KEYS[6])
local oldest = try('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
if not (item and holds and unsettled and late and oldest and try('HLEN', KEYS[3]) and try('HLEN', KEYS[5])
  and try('HLEN', KEYS[8])) then
  return { BROKEN, now, times }
end
local gate = gate_of(item[1], item[2], item[3], 0)
if gate == UNKNOWN then
  return { gate, now, times }
end

local numbers = {}
for _, i in ipairs({ 2, 4, 6, 7, 8, 9, 10, 12 }) do
  numbers[i] = tonumber(item[i] or nil)
  if not numbers[i] then
    return { BROKEN, now, times }
  end
end
if not (item[3] and item[5] and item[13]) then
  return { BROKEN, now, times }
end
return { gate, now, times, {
  numbers[2], numbers[4], item[3], item[5], numbers[6], numbers[7], numbers[8], numbers[9], numbers[10],
  tonumber(item[11] or '0') or 0, numbers[12], item[13], tonumber(item[14] or '0') or 0,
  holds, unsettled, math.floor(tonumber(oldest[2] or '0')), late,
  tonumber(item[15] or '0') or 0, tonumber(item[16] or '0') or 0,
} }
