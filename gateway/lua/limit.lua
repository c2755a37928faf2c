-- limit.lua: for each of some requests one token from each of its buckets, or from none (GCRA, by the clock of Redis);
-- or from all of them whatever they hold, for requests that were let through already.
--
-- KEYS  the buckets of the first request, then those of the second, and so on, all in one slot
-- ARGV  1 one letter for each bucket: u a user's, with which every request begins; a the address' of the same request
--       2 microseconds per token and 3 most tokens of a user's bucket   4, 5 the same of an address' bucket
--       6 what a bucket without a token does: refuse, or owe it, up to as many tokens as it can hold
-- Returns {refused_by, wait_us, left, full_us} for each request, one after the other: the number of its first bucket
--         without a token and how long until it has one, or zeros; tokens left in its first bucket and how long until
--         that is full.
--
-- A bucket is one number: when it will be full again, in microseconds. A bucket that is full has no key. What a clock
-- that was set back left too far in the future counts as owing all it can hold, no more. Requests are decided in their order, so that
-- two of one user in a call come to the same as two calls.
-- Example: 2 tokens, 1,000,000 us each: two requests are let through, the third waits at most 1,000,000 us.
assert(#KEYS > 0 and #ARGV == 6 and #ARGV[1] == #KEYS and string.sub(ARGV[1], 1, 1) == 'u',
  'limit: a letter for each key, a period and a burst for each letter, and refuse or owe')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local period = {u = tonumber(ARGV[2]), a = tonumber(ARGV[4])}
local burst = {u = tonumber(ARGV[3]), a = tonumber(ARGV[5])}
local owes = ARGV[6] == 'owe'
local stored = redis.call('MGET', unpack(KEYS))
local known, taken, reply = {}, {}, {}

-- When the bucket is full if nothing is taken. An empty one is full at `latest`; one that owes, later.
local function full_at(i, latest)
    local key = KEYS[i]
    local owed_most = latest - now
    return math.max(math.min(known[key] or tonumber(stored[i]) or 0, latest + owed_most), now)
end

-- One request, whose buckets are first to last.
local function decide(first, last)
    local at = {}
    for i = first, last do
        local kind = string.sub(ARGV[1], i, i)
        local latest = now + period[kind] * burst[kind]
        local full = full_at(i, latest)
        at[i] = full + period[kind]
        -- Half a microsecond: what is stored is rounded.
        if at[i] > latest + 0.5 and not owes then
            return i - first + 1, math.ceil(at[i] - latest), 0, math.ceil(full - now)
        end
    end
    for i = first, last do
        local key = KEYS[i]
        if not known[key] then
            taken[#taken + 1] = key
        end
        known[key] = at[i]
    end
    local left = math.floor((now + period.u * burst.u - at[first]) / period.u + 0.001)
    return 0, 0, math.max(left, 0), math.ceil(at[first] - now)
end

local first = 1
while first <= #KEYS do
    local last = first
    while string.sub(ARGV[1], last + 1, last + 1) == 'a' do
        last = last + 1
    end
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = decide(first, last)
    first = last + 1
end
for _, key in ipairs(taken) do
    local wait_ms = math.ceil((known[key] - now) / 1000) + 1
    redis.call('SET', key, string.format('%.0f', known[key]), 'PX', wait_ms)
end
return reply
