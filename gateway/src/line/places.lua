#!lua
-- places.lua — joins, asks and leaves for one item, in order of arrival, and lets in whoever's turn it is.
--
-- KEYS  1 line   2 queue   3 people   4 draw   5 admitted
-- ARGV  1 schema (1)   2 id of the line   3 when its keys may go, in ms   4 units on offer, 0: nobody is let in
--       5 admissions that keep a unit, in percent of the units on offer, that are allowed   6 people let in per second
--       7 how long an admission is good, in ms   8 how long one who does not ask counts as there, in ms   9 most people
--       10 how long an admission that is not used keeps a unit from others, in ms
--       then for each of 1 to 64 requests: what (look, join, used), ticket, number
--       number: with join the place in the draw, 0 to 2^52 - 1; with used the time of the admission that was used
--
-- Returns { -1 } when this is another line (nothing was done), else
--   { 0, now_ms, phase, waiting, gathered, thousandths of people let in per second (-1: not known), then for each
--     request: standing, position, admitted_ms, expires_ms }
--   phase     0 people gather, 1 the draw must be closed (close.lua), 2 drawn
--   standing  0 no place, 1 a place whose number is not drawn yet, 2 waits at `position`, 3 admitted, 4 the admission ran
--             out unused, 5 the line is full, 6 noted
--
-- Nobody is in the queue twice, and nobody gets in front of those who are there: before the opening the place is the
-- draw's, after it 2^52 and a serial number. Who does not ask for a while is passed over and keeps the place.

local HEADER, PER_REQUEST, REQUESTS_MAX = 10, 3, 64
local AFTER_THE_DRAW = 4503599627370496
local LET_IN_MAX, PASSED_OVER_MAX, PACE_BURST_MS, MEASURE_MS = 256, 512, 1000, 5000
local NO_PLACE, UNDRAWN, WAITS, ADMITTED, RAN_OUT, FULL, NOTED = 0, 1, 2, 3, 4, 5, 6

assert(#KEYS == 5 and ARGV[1] == '1', 'places.lua: expected 5 keys and schema 1')
local count = (#ARGV - HEADER) / PER_REQUEST
assert(count >= 1 and count <= REQUESTS_MAX and count == math.floor(count), 'places.lua: expected 1 to 64 requests')
local numbers = {}
for i = 3, HEADER do
  numbers[i] = assert(tonumber(ARGV[i]), 'places.lua: not a number')
end
for i = 1, count do
  assert(tonumber(ARGV[HEADER + i * PER_REQUEST]), 'places.lua: not a number')
end
local units, percent, per_second, good_ms, there_ms, people_max, hold_ms =
  numbers[4], numbers[5], numbers[6], numbers[7], numbers[8], numbers[9], numbers[10]

local line = redis.call('HMGET', KEYS[1], 'id', 'starts_ms', 'list_hash', 'paced_ms', 'measured_ms', 'let_in', 'rate')
if line[1] ~= ARGV[2] then
  return { -1 }
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local starts_ms = tonumber(line[2])
local phase = now < starts_ms and 0 or (line[3] and 2 or 1)

-- A person: place in the order, last asked, admitted (0: not), good until (0).
local function person_of(ticket)
  local text = redis.call('HGET', KEYS[3], ticket)
  if not text then
    return nil
  end
  local place, asked, admitted, expires = string.match(text, '^(%d+):(%d+):(%d+):(%d+)$')
  return { tonumber(place), tonumber(asked), tonumber(admitted), tonumber(expires) }
end

local function keep(ticket, person)
  redis.call('HSET', KEYS[3], ticket, string.format('%.0f:%.0f:%.0f:%.0f', person[1], person[2], person[3], person[4]))
end

local function queue(ticket, person)
  person[2] = now
  keep(ticket, person)
  redis.call('ZADD', KEYS[2], person[1], ticket)
end

local function join(ticket, drawn_place)
  if redis.call('HLEN', KEYS[3]) >= people_max then
    return FULL
  end
  local place = drawn_place
  if phase == 0 then
    redis.call('ZADD', KEYS[4], place, ticket)
  else
    place = AFTER_THE_DRAW + redis.call('HINCRBY', KEYS[1], 'serial', 1)
  end
  queue(ticket, { place, now, 0, 0 })
  return WAITS
end

local function handle(what, ticket, number)
  local person = person_of(ticket)
  if what == 'used' then
    if person and person[3] == number then
      redis.call('HDEL', KEYS[3], ticket)
      redis.call('ZREM', KEYS[5], ticket)
    end
    return NOTED
  end
  if person and person[3] > 0 and now >= person[4] then
    if what ~= 'join' then
      return RAN_OUT
    end
    redis.call('HDEL', KEYS[3], ticket)
    person = nil
  end
  if not person then
    return what == 'join' and join(ticket, number) or NO_PLACE
  elseif person[3] > 0 then
    return ADMITTED
  end
  queue(ticket, person)
  return WAITS
end

local standings = {}
for i = 1, count do
  local at = HEADER + (i - 1) * PER_REQUEST
  standings[i] = handle(ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]))
end

-- How many may come in now: by the pace, and by what is left for them.
local function due()
  if phase ~= 2 or units <= 0 then
    return 0, now
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
  -- By when they run out: whoever was let in less than hold_ms ago. Later ones do not wait for who hesitates longer.
  local keeping = redis.call('ZCOUNT', KEYS[5], '(' .. string.format('%.0f', now + good_ms - hold_ms), '+inf')
  local room = math.ceil(units * percent / 100) - keeping
  local paced_ms = math.max(tonumber(line[4] or '0'), now - PACE_BURST_MS)
  local by_pace = math.floor((now - paced_ms) * per_second / 1000)
  return math.min(room, by_pace, LET_IN_MAX), paced_ms
end

local most, paced_ms = due()
local let_in, passed_over = 0, 0
while let_in < most and passed_over < PASSED_OVER_MAX do
  local head = redis.call('ZPOPMIN', KEYS[2])[1]
  if not head then
    break
  end
  local person = person_of(head)
  if person and person[3] == 0 and now - person[2] <= there_ms then
    person[3], person[4] = now, now + good_ms
    keep(head, person)
    redis.call('ZADD', KEYS[5], person[4], head)
    let_in = let_in + 1
  else
    passed_over = passed_over + 1
  end
end

-- What the line really does, for estimates: the pace of the last seconds.
local measured_ms, measured, rate = tonumber(line[5] or now), tonumber(line[6] or '0') + let_in, tonumber(line[7] or '-1')
if now - measured_ms >= MEASURE_MS then
  rate = math.floor(measured * 1000000 / (now - measured_ms))
  measured_ms, measured = now, 0
end
if phase == 2 then
  redis.call('HSET', KEYS[1], 'paced_ms', paced_ms + let_in * 1000 / per_second, 'measured_ms', measured_ms,
    'let_in', measured, 'rate', rate)
end
for i = 1, #KEYS do
  redis.call('PEXPIREAT', KEYS[i], ARGV[3])
end

local reply = { 0, now, phase, redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[4]), rate }
for i = 1, count do
  local standing, position, admitted, expires = standings[i], 0, 0, 0
  if standing == WAITS or standing == ADMITTED then
    local ticket = ARGV[HEADER + (i - 1) * PER_REQUEST + 2]
    local person = person_of(ticket)
    if not person then
      standing = NO_PLACE -- Used by a later request of the same call.
    elseif person[3] > 0 then
      standing, admitted, expires = ADMITTED, person[3], person[4]
    elseif phase ~= 2 then
      standing = UNDRAWN
    else
      position = redis.call('ZRANK', KEYS[2], ticket) + 1
    end
  end
  for _, value in ipairs({ standing, position, admitted, expires }) do
    reply[#reply + 1] = value
  end
end
return reply
