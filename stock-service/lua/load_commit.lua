#!lua
-- load_commit.lua — replaces an item's books by the staged ones and opens the gate, last.
--
-- KEYS  as load_begin.lua: 1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 loading   7 late
--       8 staged holds   9 staged buyers   10 staged attempts   11 places
-- ARGV  1 schema (1)   2 epoch of the load   3 orders that must be staged   4 lease in ms, 0 for an item that was
--       never offered before   5 sale   6 starts_ms   7 ends_ms   8 state (none, paused, ended)   9 limit   10 total
--       11 price_cents   12 currency   13 version   14 waiting room (0, 1)   15 challenge (0, 1)
--
-- Returns { 0, now_ms, units available, reservations merged } when the gate is open now, else { 1 }: another load has
-- begun, the server process is another one, or staged orders are missing. Then nothing was changed.
--
-- Reservations in `unsettled` that the source of truth does not know yet are counted as held and stay there; those
-- that it knows leave. `late` stays: it is applied through apply_order.lua once the gate is open.

local CHUNK = 1000

--@include gate
--@include hold

assert(#KEYS == 11 and #ARGV == 15 and ARGV[1] == '1', 'load_commit.lua: expected 11 keys, 15 arguments, schema 1')
local total, lease_ms = tonumber(ARGV[10]), tonumber(ARGV[4])
assert(total and lease_ms and tonumber(ARGV[6]) and tonumber(ARGV[7]) and tonumber(ARGV[9]) and tonumber(ARGV[11])
  and tonumber(ARGV[13]), 'load_commit.lua: not a number')
assert(ARGV[8] == 'none' or ARGV[8] == 'paused' or ARGV[8] == 'ended', 'load_commit.lua: bad state')

local NOT_READY = 1
local run_id = server_run_id()
local loading = try('HMGET', KEYS[6], 'run_id', 'epoch', 'active', 'begun_ms')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'ended_ms')
if not loading or not item or loading[1] ~= run_id or loading[2] ~= ARGV[2]
  or redis.call('HLEN', KEYS[8]) ~= tonumber(ARGV[3])
  or item[1] or (item[2] and tonumber(item[2]) >= tonumber(ARGV[2])) then
  return { NOT_READY }
end
local unsettled = try('ZRANGE', KEYS[4], 0, -1)
local holds_ok = try('HLEN', KEYS[2])
if not unsettled or not holds_ok then
  return { NOT_READY }
end

-- Every check is done; from here on nothing can fail.
local active, merged = tonumber(loading[3]), 0
for first = 1, #unsettled, CHUNK do
  local last = math.min(first + CHUNK - 1, #unsettled)
  local staged = redis.call('HMGET', KEYS[8], unpack(unsettled, first, last))
  local holds = redis.call('HMGET', KEYS[2], unpack(unsettled, first, last))
  -- As few calls as possible: Redis answers nobody until this is over, and there may be hundreds of thousands.
  local settled, kept = {}, {}
  for i = 1, last - first + 1 do
    local id, quantity, units, user = unsettled[first + i - 1], nil, nil, nil
    if not staged[i] and holds[i] then
      local _
      quantity, units, _, _, user = parse_hold(holds[i])
    end
    if quantity and units == 'held' then
      kept[#kept + 1] = id
      kept[#kept + 1] = holds[i]
      redis.call('HINCRBY', KEYS[9], user, quantity)
      redis.call('HINCRBY', KEYS[10], user, 1)
      active, merged = active + quantity, merged + 1
    else
      settled[#settled + 1] = id
    end
  end
  if #kept > 0 then
    redis.call('HSET', KEYS[8], unpack(kept))
  end
  if #settled > 0 then
    redis.call('ZREM', KEYS[4], unpack(settled))
  end
end

for live, stage in pairs({ [KEYS[2]] = KEYS[8], [KEYS[3]] = KEYS[9], [KEYS[5]] = KEYS[10] }) do
  redis.call('UNLINK', live)
  if redis.call('EXISTS', stage) == 1 then
    redis.call('RENAME', stage, live)
  end
end

local now = now_ms()
local ended_ms = item[3]
redis.call('UNLINK', KEYS[1], KEYS[6])
redis.call('HSET', KEYS[1], 'sale', ARGV[5], 'starts_ms', ARGV[6], 'ends_ms', ARGV[7], 'state', ARGV[8],
  'limit', ARGV[9], 'total', total, 'available', total - active, 'withheld', 0, 'price', ARGV[11],
  'currency', ARGV[12], 'version', ARGV[13], 'epoch', ARGV[2], 'waiting_room', ARGV[14], 'challenge', ARGV[15])
if ARGV[8] == 'ended' then
  redis.call('HSET', KEYS[1], 'ended_ms', ended_ms or now)
end
if lease_ms > 0 then
  -- Snapshots that refuse were taken before the gate was closed for this load.
  redis.call('HSET', KEYS[1], 'reopen_ms', tonumber(loading[4]) + lease_ms, 'reopen_as', 'loading')
end
redis.call('HSET', KEYS[1], 'run_id', run_id)
return { OPEN, now, total - active, merged }
