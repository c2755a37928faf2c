#!lua
-- load_stage.lua — adds a chunk of an item's orders to the staging keys of the load in progress.
--
-- KEYS  1 loading   2 staged holds   3 staged buyers   4 staged attempts
-- ARGV  1 schema (1)   2 epoch of the load
--       then for each of 1 to 256 orders: order id, user, quantity, units, version, created_ms
--
-- Returns how many orders are staged now; -1 when this load is not the one in progress in this server process.
-- A chunk may be sent again: an order that is staged already is left as it is.

local HEADER, PER_ORDER, ORDERS_MAX = 2, 6, 256

--@include gate
--@include hold

assert(#KEYS == 4 and ARGV[1] == '1', 'load_stage.lua: expected 4 keys and schema 1')
local count = (#ARGV - HEADER) / PER_ORDER
assert(count >= 1 and count <= ORDERS_MAX and count == math.floor(count), 'load_stage.lua: expected 1 to 256 orders')

local loading = try('HMGET', KEYS[1], 'run_id', 'epoch')
if not loading or loading[1] ~= server_run_id() or loading[2] ~= ARGV[2] then
  return -1
end

local active = 0
for i = 1, count do
  local at = HEADER + (i - 1) * PER_ORDER
  local id, user, quantity, units = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  local hold = format_hold(quantity, units, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), user)
  if redis.call('HSETNX', KEYS[2], id, hold) == 1 then
    redis.call('HINCRBY', KEYS[4], user, 1)
    if units ~= 'returned' then
      redis.call('HINCRBY', KEYS[3], user, quantity)
      active = active + quantity
    end
  end
end
redis.call('HINCRBY', KEYS[1], 'active', active)
return redis.call('HLEN', KEYS[2])
