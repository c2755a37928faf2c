#!lua flags=allow-oom
-- withdraw.lua — takes units off offer before the source of truth lowers the total by them, or gives them back.
--
-- KEYS  1 item
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts; when giving back, the epoch of the withdrawal
--       3 units: above 0 to withdraw, below 0 to give back   4 sold-out lease in ms
--
-- Returns { gate } unless the gate is open, else { 0, units moved, epoch, units available }. Withdrawing moves all of
-- the units or, when fewer are on offer, none; giving back moves those that no lower total has claimed meanwhile.
--
-- What is withdrawn is a part of `withheld` (see apply_order.lua), counted in `withdrawn`, so that the sum of the books
-- stays. update.lua pays a lower total with it; an adopted order is never paid with it. A load forgets it: what was
-- withdrawn in one epoch is worth nothing in the next, and cannot be given back there.
-- Flagged allow-oom: what is given back, and taken off offer, must be so in a full Redis too.

--@include gate

assert(#KEYS == 1 and #ARGV == 4 and ARGV[1] == '1', 'withdraw.lua: expected 1 key, 4 arguments, schema 1')
local epoch_min, units, lease_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
assert(epoch_min and units and lease_ms and units == math.floor(units) and units ~= 0,
  'withdraw.lua: epoch, units and lease must be numbers, and units not 0')

local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'available', 'withheld', 'withdrawn')
if not item then
  return { BROKEN }
end
local gate = gate_of(item[1], item[2], item[3], epoch_min)
if gate ~= OPEN then
  return { gate }
end
local available, epoch = tonumber(item[4] or nil), tonumber(item[2])
local withheld, withdrawn = tonumber(item[5] or '0'), tonumber(item[6] or '0')
if not (available and withheld and withdrawn) then
  return { BROKEN }
end

local moved
if units > 0 then
  moved = available >= units and units or 0
else
  moved = epoch == epoch_min and -math.min(withdrawn, -units) or 0
end
if moved == 0 then
  return { OPEN, 0, epoch, available }
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'available', available - moved, 'withheld', withheld + moved,
  'withdrawn', withdrawn + moved)
if moved > 0 then
  redis.call('HSET', KEYS[1], 'withdrawn_ms', now)
elseif available <= 0 and available - moved > 0 then
  -- Snapshots that refuse everybody run out before anybody gets a unit.
  redis.call('HSET', KEYS[1], 'reopen_ms', now + lease_ms, 'reopen_as', 'sold_out')
end
return { OPEN, moved, epoch, available - moved }
