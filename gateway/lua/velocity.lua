-- velocity.lua: one more of something within a window, or nothing of it (sliding windows, by the clock of Redis).
--
-- KEYS  one sorted set per rule, all in one slot: what was seen, by the time in ms at which it was seen last
-- ARGV  the window in ms, then for each rule: what is seen now, most different ones within the window
-- Returns {refused_by, wait_ms}: the number of the first rule that is broken and how long until there is room, or zeros.
--
-- What was seen within the window already counts once, and is always let through. A set never holds more than its rule
-- allows, and goes a window after it was last used.
-- Example: at most 2 accounts for a device: the third one is refused until one of the first two has not been seen for a
--          whole window.
assert(#KEYS > 0 and #ARGV == 1 + 2 * #KEYS, 'velocity: a window, and a member and a maximum for each key')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local window = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
    local member, most = ARGV[2 * i], tonumber(ARGV[2 * i + 1])
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
    if not redis.call('ZSCORE', key, member) and redis.call('ZCARD', key) >= most then
        local oldest = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
        return {i, math.max(oldest + window - now, 1)}
    end
end
for i, key in ipairs(KEYS) do
    redis.call('ZADD', key, now, ARGV[2 * i])
    redis.call('PEXPIRE', key, window)
end
return {0, 0}
