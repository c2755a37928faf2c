#!lua
-- reserve.lua — decides a batch of requests for units of one item, in order of arrival.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 places
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts   3 most attempts of one user
--       then for each of 1 to 128 requests: order id, user, quantity, deadline in ms by this server's clock, when the
--       waiting room admitted the user, in ms of its clock (0: not that anybody knows)
--
-- Returns { gate } when the gate is not open, else
--   { 0, now_ms, epoch, sale, price_cents, currency, starts_ms, then for each request: code, standing, reserved_ms }
--   code      >= 0 granted now or before: units left;  -1 item unknown (only as the gate);  -2 not enough units;
--             -3 over the user's limit;  -4 not started;  -5 ended;  -6 paused;  -7 other quantity or user under
--             this id;  -8 deadline passed;  -9 too many attempts;  -12 reopening after a load, ask again;
--             -13 the item has a waiting room, and this admission is none, or an order was granted for it or a newer one
--   standing  1 granted by this call, 2 known and not settled, 3 known and settled, 0 refused
--
-- All or nothing: every read and check comes before the first write, and nothing after it can fail. Not flagged
-- allow-oom on purpose: a full Redis refuses the call before it runs.

local HEADER, PER_REQUEST, REQUESTS_MAX, QUANTITY_MAX = 3, 5, 128, 100
local NOT_ENOUGH, OVER_LIMIT, NOT_STARTED, ENDED, PAUSED = -2, -3, -4, -5, -6
local MISMATCH, TOO_LATE, TOO_MANY_ATTEMPTS, REOPENING, PLACE_REQUIRED = -7, -8, -9, -12, -13
local REFUSED, GRANTED, KNOWN_UNSETTLED, KNOWN_SETTLED = 0, 1, 2, 3

--@include gate
--@include hold

assert(#KEYS == 6 and ARGV[1] == '1', 'reserve.lua: expected 6 keys and schema 1')
local count = (#ARGV - HEADER) / PER_REQUEST
assert(count >= 1 and count <= REQUESTS_MAX and count == math.floor(count), 'reserve.lua: expected 1 to 128 requests')
local epoch_min, attempts_max = tonumber(ARGV[2]), tonumber(ARGV[3])
assert(epoch_min and attempts_max, 'reserve.lua: epoch and attempts must be numbers')

local find, format = string.find, string.format
local ids, users, quantities, deadlines, admitted = {}, {}, {}, {}, {}
for i = 1, count do
  local at = HEADER + (i - 1) * PER_REQUEST
  ids[i], users[i] = ARGV[at + 1], ARGV[at + 2]
  quantities[i], deadlines[i], admitted[i] = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local id, user, quantity = ids[i], users[i], quantities[i]
  assert(id ~= '' and user ~= '' and not find(user, '[^%w_-]'), 'reserve.lua: bad order id or user')
  assert(quantity and quantity >= 1 and quantity <= QUANTITY_MAX and quantity % 1 == 0 and deadlines[i]
    and admitted[i], 'reserve.lua: bad quantity, deadline or admission')
end

local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'state', 'starts_ms', 'ends_ms', 'limit', 'available',
  'price', 'currency', 'reopen_ms', 'reopen_as', 'waiting_room')
if not item then
  return { BROKEN }
end
local gate = gate_of(item[1], item[2], item[3], epoch_min)
if gate ~= OPEN then
  return { gate }
end
local sale, state, price, currency, reopen_as = item[3], item[4], item[9], item[10], item[12]
local starts_ms, ends_ms, limit = tonumber(item[5] or nil), tonumber(item[6] or nil), tonumber(item[7] or nil)
local available, reopen_ms = tonumber(item[8] or nil), tonumber(item[11] or '0')
local holds = try('HMGET', KEYS[2], unpack(ids))
local bought_before = try('HMGET', KEYS[3], unpack(users))
local attempts_before = try('HMGET', KEYS[5], unpack(users))
local has_line = item[13] == '1'
local places_before = has_line and try('HMGET', KEYS[6], unpack(users)) or {}
if not (sale and state and price and currency and starts_ms and ends_ms and limit and available and reopen_ms)
  or not (holds and bought_before and attempts_before and try('ZCARD', KEYS[4]) and try('HLEN', KEYS[6])) then
  return { BROKEN }
end

local now = now_ms()
local seen, bought, attempts, places = {}, {}, {}, {}
for i = 1, count do
  if holds[i] and not seen[ids[i]] then
    local quantity, _, _, reserved_ms, user = parse_hold(holds[i])
    if not quantity then
      return { BROKEN }
    end
    local settled = redis.call('ZSCORE', KEYS[4], ids[i]) == false
    seen[ids[i]] = { quantity, user, reserved_ms, settled and KNOWN_SETTLED or KNOWN_UNSETTLED }
  end
  bought[users[i]] = tonumber(bought_before[i] or '0')
  attempts[users[i]] = tonumber(attempts_before[i] or '0')
  places[users[i]] = tonumber(places_before[i] or '0') or 0
  if not bought[users[i]] or not attempts[users[i]] then
    return { BROKEN }
  end
end

-- What stands against any new grant of this item, whoever asks; nil: nothing.
local function closed_for_all()
  if state == 'ended' or now >= ends_ms then
    return ENDED
  elseif now < starts_ms then
    return NOT_STARTED
  elseif state ~= 'none' then
    return PAUSED
  end
end

-- Until `reopen_ms` some gateway may still refuse from an old snapshot, so nobody else gets a unit either.
local function lease_refusal()
  if now >= reopen_ms then
    return nil
  elseif reopen_as == 'paused' then
    return PAUSED
  elseif reopen_as == 'loading' then
    return REOPENING
  end
  return NOT_ENOUGH
end

local refusal_for_all, refusal_for_now = closed_for_all(), lease_refusal()
local new_holds, new_buyers, new_attempts, new_unsettled, new_places = {}, {}, {}, {}, {}
local granted = 0
local reply = { OPEN, now, tonumber(item[2]), sale, tonumber(price), currency, starts_ms }
local answered = #reply

local function answer(code, standing, reserved_ms)
  reply[answered + 1], reply[answered + 2], reply[answered + 3] = code, standing, reserved_ms
  answered = answered + 3
end

-- Redis writes a number of Lua as a fraction of 17 digits, which is slow; a text it takes as it is.
local texts = {}
local function integer_text(number)
  local text = texts[number]
  if not text then
    text = format('%d', number)
    texts[number] = text
  end
  return text
end
local now_text = integer_text(now)

-- As include/hold.lua writes it, of units that are held and not reported yet.
local held_since = ':held:0:' .. now_text .. ':'

local function refusal_of(i)
  local user = users[i]
  if now > deadlines[i] then
    return TOO_LATE
  elseif refusal_for_all then
    return refusal_for_all
  elseif bought[user] + quantities[i] > limit then
    return OVER_LIMIT
  elseif attempts[user] >= attempts_max then
    return TOO_MANY_ATTEMPTS
  elseif refusal_for_now then
    return refusal_for_now
  elseif available < quantities[i] then
    return NOT_ENOUGH
  elseif has_line and admitted[i] <= places[user] then
    return PLACE_REQUIRED
  end
end

for i = 1, count do
  local id, user, quantity = ids[i], users[i], quantities[i]
  local known = seen[id]
  local refusal = not known and refusal_of(i)
  if known and (known[1] ~= quantity or known[2] ~= user) then
    answer(MISMATCH, REFUSED, 0)
  elseif known then
    answer(math.max(available, 0), known[4], known[3])
  elseif refusal then
    answer(refusal, REFUSED, 0)
  else
    available = available - quantity
    bought[user] = bought[user] + quantity
    attempts[user] = attempts[user] + 1
    -- A second request with this id in the same batch travels in the same message.
    seen[id] = { quantity, user, now, KNOWN_UNSETTLED }
    granted = granted + 2
    new_holds[granted - 1], new_holds[granted] = id, integer_text(quantity) .. held_since .. user
    new_buyers[granted - 1], new_buyers[granted] = user, integer_text(bought[user])
    new_attempts[granted - 1], new_attempts[granted] = user, integer_text(attempts[user])
    if has_line then
      places[user] = admitted[i]
      new_places[granted - 1], new_places[granted] = user, integer_text(admitted[i])
    end
    new_unsettled[granted - 1], new_unsettled[granted] = now_text, id
    answer(available, GRANTED, now)
  end
end

if granted > 0 then
  redis.call('HSET', KEYS[2], unpack(new_holds))
  redis.call('HSET', KEYS[3], unpack(new_buyers))
  redis.call('HSET', KEYS[5], unpack(new_attempts))
  redis.call('ZADD', KEYS[4], unpack(new_unsettled))
  redis.call('HSET', KEYS[1], 'available', available)
  if has_line then
    redis.call('HSET', KEYS[6], unpack(new_places))
  end
end
return reply
