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
-- begun, the server process is another one, staged orders are missing, or load_merge.lua has not come to the end of
-- `unsettled`. Then nothing was changed.
--
-- Takes no longer for many orders than for few. `late` stays: it is applied through apply_order.lua once the gate is open.

--@include gate

assert(#KEYS == 11 and #ARGV == 15 and ARGV[1] == '1', 'load_commit.lua: expected 11 keys, 15 arguments, schema 1')
local total, lease_ms = tonumber(ARGV[10]), tonumber(ARGV[4])
assert(total and lease_ms and tonumber(ARGV[6]) and tonumber(ARGV[7]) and tonumber(ARGV[9]) and tonumber(ARGV[11])
  and tonumber(ARGV[13]), 'load_commit.lua: not a number')
assert(ARGV[8] == 'none' or ARGV[8] == 'paused' or ARGV[8] == 'ended', 'load_commit.lua: bad state')

local NOT_READY = 1
local run_id = server_run_id()
local loading = try('HMGET', KEYS[6], 'run_id', 'epoch', 'active', 'begun_ms', 'merged', 'complete')
local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'ended_ms')
if not loading or not item or loading[1] ~= run_id or loading[2] ~= ARGV[2] or loading[6] ~= '1'
  or redis.call('HLEN', KEYS[8]) ~= tonumber(ARGV[3]) + tonumber(loading[5] or '0')
  or item[1] or (item[2] and tonumber(item[2]) >= tonumber(ARGV[2])) then
  return { NOT_READY }
end

-- Every check is done; from here on nothing can fail.
local active, merged = tonumber(loading[3]), tonumber(loading[5] or '0')
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
redis.call('HSET', KEYS[1], 'run_id', run_id, 'replid', server_replid())
return { OPEN, now, total - active, merged }
