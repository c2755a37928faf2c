#!lua flags=allow-oom
-- load_begin.lua — closes an item's gate for good and prepares the staging keys of a load.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 loading   7 late
--       8 staged holds   9 staged buyers   10 staged attempts   11 places
-- ARGV  1 schema (1)   2 epoch that order-service handed out for this load
--
-- Returns { 0, now_ms, earlier } when the load may go on; earlier: 1 when the item was loaded here before
--         { 1 } the gate is open with this epoch or a newer one: nothing to do, nothing was done
--         { 2 } a load with a newer epoch has begun: nothing was done
--
-- From here until load_commit.lua nothing is granted, also not by the holder of an older epoch. Keys of the wrong type
-- are removed: everything in them is in the source of truth or on its way there.

--@include gate

assert(#KEYS == 11 and #ARGV == 2 and ARGV[1] == '1', 'load_begin.lua: expected 11 keys and schema 1')
local epoch = tonumber(ARGV[2])
assert(epoch and epoch >= 1, 'load_begin.lua: bad epoch')

local BEGUN, ALREADY_OPEN, SUPERSEDED = 0, 1, 2
local run_id = server_run_id()
local item = try('HMGET', KEYS[1], 'run_id', 'epoch')
local loading = try('HMGET', KEYS[6], 'run_id', 'epoch')
local item_epoch = item and tonumber(item[2] or nil)

local types = { 'hash', 'hash', 'hash', 'zset', 'hash', 'hash', 'hash', [11] = 'hash' }
local sound = true
for i, expected in pairs(types) do
  local found = redis.call('TYPE', KEYS[i]).ok
  sound = sound and (found == expected or found == 'none')
end

if sound and item[1] == run_id and item_epoch and item_epoch >= epoch then
  return { ALREADY_OPEN }
end
if loading and loading[1] == run_id and (tonumber(loading[2] or nil) or 0) > epoch then
  return { SUPERSEDED }
end

for i, expected in pairs(types) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= expected and found ~= 'none' then
    redis.call('UNLINK', KEYS[i])
  end
end
local now = now_ms()
redis.call('HDEL', KEYS[1], 'run_id')
redis.call('UNLINK', KEYS[6], KEYS[8], KEYS[9], KEYS[10])
redis.call('HSET', KEYS[6], 'run_id', run_id, 'epoch', epoch, 'begun_ms', now, 'active', 0)
return { BEGUN, now, item_epoch and 1 or 0 }
