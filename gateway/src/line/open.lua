#!lua
-- open.lua — the line of one item: opened with the first call, the same for everybody after it.
--
-- KEYS  1 line
-- ARGV  1 schema (1)   2 id for a new line   3 seed for a new line, hex   4 its commitment, hex   5 starts_ms
--       6 when every key of the line may go, in ms
--
-- Returns { now_ms, id, seed, commitment, starts_ms, opened_ms, list hash ('': not drawn yet), people drawn }

assert(#KEYS == 1 and #ARGV == 6 and ARGV[1] == '1', 'open.lua: expected 1 key, 6 arguments, schema 1')
assert(tonumber(ARGV[5]) and tonumber(ARGV[6]), 'open.lua: not a number')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('HEXISTS', KEYS[1], 'id') == 0 then
  redis.call('HSET', KEYS[1], 'id', ARGV[2], 'seed', ARGV[3], 'commitment', ARGV[4], 'starts_ms', ARGV[5],
    'opened_ms', now, 'serial', 0)
  redis.call('PEXPIREAT', KEYS[1], ARGV[6])
end
local line = redis.call('HMGET', KEYS[1], 'id', 'seed', 'commitment', 'starts_ms', 'opened_ms', 'list_hash', 'drawn')
return { now, line[1], line[2], line[3], tonumber(line[4]), tonumber(line[5]), line[6] or '', tonumber(line[7] or '0') }
