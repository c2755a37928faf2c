#!lua flags=allow-oom
-- retire.lua — removes the keys of an item whose sale is long over and all of whose orders have come to rest.
--
-- KEYS  as load_begin.lua: 1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 loading   7 late
--       8 staged holds   9 staged buyers   10 staged attempts   11 places   and  12 alarm
-- ARGV  1 schema (1)   2 ms to keep the keys after the end, so that retries are answered from here
--
-- Returns 1 removed; 0 not yet: still on sale, kept, being loaded, or reservations are not settled;
-- -1 there was nothing, -10 gate closed, -11 wrong type. The caller has asked order-service whether it is settled.

--@include gate

assert(#KEYS == 12 and #ARGV == 2 and ARGV[1] == '1', 'retire.lua: expected 12 keys, 2 arguments, schema 1')
local keep_ms = tonumber(ARGV[2])
assert(keep_ms, 'retire.lua: the time to keep must be a number')

local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'ends_ms', 'ended_ms')
local unsettled, late = try('ZCARD', KEYS[4]), try('HLEN', KEYS[7])
if not item or not unsettled or not late then
  return BROKEN
end
local gate = gate_of(item[1], item[2], item[3], 0)
if gate ~= OPEN then
  return gate
end
local ends_ms, ended_ms = tonumber(item[4] or nil), tonumber(item[5] or nil)
if not ends_ms then
  return BROKEN
end
local over_since_ms = math.min(ends_ms, ended_ms or ends_ms)
if now_ms() < over_since_ms + keep_ms or unsettled > 0 or late > 0 or redis.call('EXISTS', KEYS[6]) == 1 then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
