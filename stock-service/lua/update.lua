#!lua flags=allow-oom
-- update.lua — takes over the absolute state of an item from the source of truth, newer versions only.
--
-- KEYS  1 item
-- ARGV  1 schema (1)   2 lease in ms   3 sale   4 starts_ms   5 ends_ms   6 state (none, paused, ended)   7 limit
--       8 total   9 price_cents   10 currency   11 version   12 waiting room (0, 1)   13 challenge (0, 1)
--       14 lowest epoch that the caller accepts
--
-- Returns 1 changed; 0 not newer; -1 item unknown here; -10 gate closed and -11 wrong type: nothing was done, the load
-- that will open the gate takes the newest state.
--
-- Availability moves by the difference of the totals; what is withheld (see apply_order.lua) pays for a lower one
-- first, and of that what was withdrawn for it (see withdraw.lua). When the item refused everybody before and does no longer, a lease begins: snapshots that refuse run out
-- before anybody gets a unit.

--@include gate

assert(#KEYS == 1 and #ARGV == 14 and ARGV[1] == '1', 'update.lua: expected 1 key, 14 arguments, schema 1')
local lease_ms, total, ends_after = tonumber(ARGV[2]), tonumber(ARGV[8]), tonumber(ARGV[5])
assert(lease_ms and total and ends_after and tonumber(ARGV[4]) and tonumber(ARGV[7]) and tonumber(ARGV[9])
  and tonumber(ARGV[11]) and tonumber(ARGV[14]), 'update.lua: not a number')
assert(ARGV[6] == 'none' or ARGV[6] == 'paused' or ARGV[6] == 'ended', 'update.lua: bad state')

local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'version', 'total', 'available', 'withheld', 'state',
  'ends_ms', 'ended_ms', 'withdrawn')
if not item then
  return BROKEN
end
local gate = gate_of(item[1], item[2], item[3], tonumber(ARGV[14]))
if gate ~= OPEN then
  return gate
end
local total_before, available, ends_before = tonumber(item[5] or nil), tonumber(item[6] or nil), tonumber(item[9] or nil)
local version, withheld = tonumber(item[4] or nil), tonumber(item[7] or '0') or 0
if not (total_before and available and ends_before and version) then
  return BROKEN
end
if version >= tonumber(ARGV[11]) then
  return 0
end

local now = now_ms()
local function refuses_everybody(state, units, ends_ms)
  return state ~= 'none' or units <= 0 or now >= ends_ms
end
local refused_before = refuses_everybody(item[8], available, ends_before)

local lowered_by = total_before - total
local paid = math.max(math.min(withheld, lowered_by), 0)
withheld = withheld - paid
local withdrawn = tonumber(item[11] or '0') or 0
available = available - (lowered_by - paid)

redis.call('HSET', KEYS[1], 'sale', ARGV[3], 'starts_ms', ARGV[4], 'ends_ms', ARGV[5], 'state', ARGV[6],
  'limit', ARGV[7], 'total', total, 'available', available, 'withheld', withheld, 'price', ARGV[9],
  'currency', ARGV[10], 'version', ARGV[11], 'waiting_room', ARGV[12], 'challenge', ARGV[13])
if withdrawn > 0 then
  redis.call('HSET', KEYS[1], 'withdrawn', withdrawn - math.min(withdrawn, paid))
end
if ARGV[6] == 'ended' and not item[10] then
  redis.call('HSET', KEYS[1], 'ended_ms', now)
end
if refused_before and not refuses_everybody(ARGV[6], available, ends_after) then
  redis.call('HSET', KEYS[1], 'reopen_ms', now + lease_ms,
    'reopen_as', item[8] == 'paused' and 'paused' or 'sold_out')
end
return 1
