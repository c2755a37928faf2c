#!lua
-- close.lua — writes down who takes part in the draw; from then on people are admitted.
--
-- KEYS  1 line   2 draw
-- ARGV  1 schema (1)   2 id of the line   3 hash of the sorted list of participants, hex   4 how many they are
--
-- Returns { 0, list hash } when it is closed, by this call or an earlier one; { 1 } when it is too early or the list is
-- another one; { -1 } when this is another line. Whoever closes gets the same hash: after the opening nobody joins the
-- draw.

assert(#KEYS == 2 and #ARGV == 4 and ARGV[1] == '1', 'close.lua: expected 2 keys, 4 arguments, schema 1')
local count = assert(tonumber(ARGV[4]), 'close.lua: not a number')

local line = redis.call('HMGET', KEYS[1], 'id', 'starts_ms', 'list_hash')
if line[1] ~= ARGV[2] then
  return { -1 }
elseif line[3] then
  return { 0, line[3] }
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if now < tonumber(line[2]) or redis.call('ZCARD', KEYS[2]) ~= count then
  return { 1 }
end
redis.call('HSET', KEYS[1], 'list_hash', ARGV[3], 'drawn', count, 'drawn_ms', now)
return { 0, ARGV[3] }
