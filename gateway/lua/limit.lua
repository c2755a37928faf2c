-- limit.lua: one token from each of some buckets, or from none (GCRA, by the clock of Redis).
--
-- KEYS  the buckets, all in one slot
-- ARGV  for each bucket: microseconds per token, most tokens
-- Returns {refused_by, wait_us, left, full_us}: the number of the first bucket without a token and how long until it has
--         one, or zeros; tokens left in the first bucket and how long until it is full.
--
-- A bucket is one number: when it will be full again, in microseconds. A bucket that is full has no key. What a clock
-- that was set back left too far in the future counts as empty, no more.
-- Example: 2 tokens, 1,000,000 us each: two calls are let through, the third waits at most 1,000,000 us.
assert(#KEYS > 0 and #ARGV == 2 * #KEYS, 'limit: a period and a burst for each key')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full_at = {}
for i, key in ipairs(KEYS) do
    local period, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local latest = now + period * burst
    local known = math.min(tonumber(redis.call('GET', key)) or 0, latest)
    full_at[i] = math.max(known, now) + period
    -- Half a microsecond: what is stored is rounded.
    if full_at[i] > latest + 0.5 then
        return {i, math.ceil(full_at[i] - latest), 0, math.ceil(math.max(known, now) - now)}
    end
end
for i, key in ipairs(KEYS) do
    local wait_ms = math.ceil((full_at[i] - now) / 1000) + 1
    redis.call('SET', key, string.format('%.0f', full_at[i]), 'PX', wait_ms)
end
local period, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local left = math.floor((now + period * burst - full_at[1]) / period + 0.001)
return {0, 0, left, math.ceil(full_at[1] - now)}
