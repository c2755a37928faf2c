#!lua flags=no-writes
-- pending.lua — a page of the reservations that order-service has not reported yet, oldest first.
--
-- KEYS  1 holds   2 unsettled
-- ARGV  1 schema (1)   2 how old they must be, in ms   3 how many to skip   4 how many to return, at most
--
-- Returns { now_ms, then for each: order id, hold or an empty text when there is none }. The gate does not matter:
-- a load publishes what survived before it opens it. Keys of the wrong type count as empty.

--@include gate

assert(#KEYS == 2 and #ARGV == 4 and ARGV[1] == '1', 'pending.lua: expected 2 keys, 4 arguments, schema 1')
local age_ms, skip, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
assert(age_ms and skip and most and most <= 1000, 'pending.lua: bad arguments')

local now = now_ms()
local ids = try('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now - age_ms), 'LIMIT', skip, most) or {}
local reply = { now }
if #ids == 0 then
  return reply
end
local holds = try('HMGET', KEYS[1], unpack(ids)) or {}
for i, id in ipairs(ids) do
  reply[#reply + 1] = id
  reply[#reply + 1] = holds[i] or ''
end
return reply
