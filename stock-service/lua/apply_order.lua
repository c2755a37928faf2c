#!lua flags=allow-oom
-- apply_order.lua — makes the books of one item follow what order-service says of its orders, order by order.
--
-- KEYS  1 item   2 holds   3 buyers   4 unsettled   5 attempts   6 loading   7 late   8 alarm
-- ARGV  1 schema (1)   2 lowest epoch that the caller accepts   3 sold-out lease in ms
--       4 ms after which an alarm is forgotten
--       then for each of 1 to 256 orders: order id, user, quantity, units, version, created_ms, refused
--       refused: 1 when the order was rejected because nothing was left in the source of truth, else 0
--
-- Returns { gate, now_ms, then one code for each order }
--   gate 0:   0 nothing new; 1 noted; 2 units given back; 3 adopted; 4 tombstone; 5 units withheld
--   else:     6 kept for after the load that is in progress; 7 dropped: no load is in progress, and the one that will
--             open the gate reads the source of truth later than this event was written there;
--             8 contradicts the books: this call has closed the gate, and applied nothing
--
-- Idempotent per order: only a newer version changes anything. Every order leaves `unsettled`. What happened to units
-- follows from what they were here and are there, never from the kind of event, so order and repetition do not matter.
-- A refusal by the total shows that these books had counted too many units: they are `withheld` instead of given
-- back, and pay for the order that is adopted, or the total that is lowered, in their place. The part of them that was
-- withdrawn for a total about to be lowered (see withdraw.lua) pays for nothing else.
-- Units only go from held to sold to returned, an order's user and quantity never change, and one version says one
-- thing. What says otherwise shows that books or source of truth are wrong, and nothing is sold on from either.
-- Flagged allow-oom: giving back must work in a full Redis.

local HEADER, PER_ORDER, ORDERS_MAX = 4, 7, 256
local UNCHANGED, NOTED, GAVE_BACK, ADOPTED, TOMBSTONE, WITHHELD = 0, 1, 2, 3, 4, 5
local KEPT, DROPPED, CONTRADICTS = 6, 7, 8
local STAGE = { held = 1, sold = 2, returned = 3 }

--@include gate
--@include hold

assert(#KEYS == 8 and ARGV[1] == '1', 'apply_order.lua: expected 8 keys and schema 1')
local count = (#ARGV - HEADER) / PER_ORDER
assert(count >= 1 and count <= ORDERS_MAX and count == math.floor(count), 'apply_order.lua: expected 1 to 256 orders')
local epoch_min, lease_ms, calm_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
assert(epoch_min and lease_ms and calm_ms, 'apply_order.lua: epoch and times must be numbers')

local orders, ids, users = {}, {}, {}
for i = 1, count do
  local at = HEADER + (i - 1) * PER_ORDER
  local order = { id = ARGV[at + 1], user = ARGV[at + 2], quantity = tonumber(ARGV[at + 3]), units = ARGV[at + 4],
    version = tonumber(ARGV[at + 5]), created_ms = tonumber(ARGV[at + 6]), refused = ARGV[at + 7] == '1' }
  assert(#order.id > 0 and string.match(order.user, '^[%w_-]+$') and order.quantity and order.version
    and order.created_ms and STAGE[order.units],
    'apply_order.lua: bad order')
  orders[i], ids[i], users[i] = order, order.id, order.user
end

local item = try('HMGET', KEYS[1], 'run_id', 'epoch', 'sale', 'available', 'withheld', 'withdrawn')
local loading = try('HMGET', KEYS[6], 'run_id')
local late_count = try('HLEN', KEYS[7])
local holds = try('HMGET', KEYS[2], unpack(ids))
local counts_ok = try('HLEN', KEYS[3]) and try('HLEN', KEYS[5])
local unsettled_ok = try('ZCARD', KEYS[4])
local available = item and tonumber(item[4] or nil)

local gate = BROKEN
if item and loading and late_count and holds and counts_ok and unsettled_ok then
  gate = gate_of(item[1], item[2], item[3], epoch_min)
  if gate == OPEN and not available then
    gate = BROKEN
  end
end

-- The version of an order that is kept for after a load; below every version when there is none.
local function kept_version(id)
  return tonumber(string.match(redis.call('HGET', KEYS[7], id) or '', '^(%d+):') or '-1')
end

-- The gate is closed. A load that is in progress may have read the source of truth before this event, so the event
-- waits for it; with none in progress, the one to come will read it all.
local function keep_for_later()
  local in_progress = loading and loading[1] == server_run_id() and late_count
  local reply = { gate, now_ms() }
  for i, order in ipairs(orders) do
    if in_progress then
      if kept_version(order.id) < order.version then
        redis.call('HSET', KEYS[7], order.id, string.format('%d:%d:%s:%d:%d:%s', order.version, order.quantity,
          order.units, order.created_ms, order.refused and 1 or 0, order.user))
      end
    end
    reply[i + 2] = in_progress and KEPT or DROPPED
  end
  return reply
end

if gate ~= OPEN then
  return keep_for_later()
end

local function contradicts(hold, order)
  if hold.user ~= order.user or hold.quantity ~= order.quantity or not STAGE[hold.units] then
    return true
  elseif order.version > hold.version then
    return STAGE[order.units] < STAGE[hold.units]
  end
  return order.version == hold.version and order.units ~= hold.units
end

-- Users whose counts may change. The news of an order whose hold is here and stays, as of nearly every one, changes none.
local counted_users = {}
local known, contradicting = {}, {}
for i = 1, count do
  if holds[i] then
    local quantity, units, version, reserved_ms, user = parse_hold(holds[i])
    known[ids[i]] = { quantity = quantity, units = units, version = version, reserved_ms = reserved_ms, user = user }
    contradicting[i] = contradicts(known[ids[i]], orders[i]) or nil
  end
  if not holds[i] or known[ids[i]].units == 'returned' or orders[i].units == 'returned' then
    counted_users[#counted_users + 1] = users[i]
  end
end

if next(contradicting) then
  close_as_wrong(KEYS[1], KEYS[8], 'transition', calm_ms)
  gate = BROKEN
  local reply = keep_for_later()
  for i in pairs(contradicting) do
    reply[i + 2] = CONTRADICTS
  end
  return reply
end

local bought, attempts = {}, {}
if #counted_users > 0 then
  local bought_before = redis.call('HMGET', KEYS[3], unpack(counted_users))
  local attempts_before = redis.call('HMGET', KEYS[5], unpack(counted_users))
  for i, user in ipairs(counted_users) do
    -- Not numbers: counted from zero, so that nothing can fail after the first write.
    bought[user] = tonumber(bought_before[i] or '0') or 0
    attempts[user] = tonumber(attempts_before[i] or '0') or 0
  end
end

local withheld = tonumber(item[5] or '0') or 0
local withdrawn = tonumber(item[6] or '0') or 0
local offered_before = available > 0
local now = now_ms()
local reply = { OPEN, now }

-- What is written at the end, one call a key, field and value in turn; where a field comes twice, the later one stays.
local new_holds, new_attempts, changed_buyers = {}, {}, {}

-- Moves units of one user; `taken` is negative when they come back.
local function count_buyer(user, taken)
  bought[user] = math.max(bought[user] + taken, 0)
  changed_buyers[user] = true
end

-- Units that were counted as on offer and are not: first out of what is withheld and was not withdrawn.
local function take(quantity)
  local paid = math.max(math.min(withheld - withdrawn, quantity), 0)
  withheld = withheld - paid
  available = available - (quantity - paid)
end

local function give_back(quantity, refused)
  if not refused then
    available = available + quantity
    return
  end
  -- A deficit is paid at once, the rest waits for what it is owed to.
  local paid = math.min(quantity, math.max(-available, 0))
  available = available + paid
  withheld = withheld + quantity - paid
end

local function write_hold(order, reserved_ms)
  known[order.id] = { quantity = order.quantity, units = order.units, version = order.version,
    reserved_ms = reserved_ms }
  new_holds[#new_holds + 1] = order.id
  new_holds[#new_holds + 1] = format_hold(order.quantity, order.units, order.version, reserved_ms, order.user)
end

local function apply(order)
  local hold = known[order.id]
  local active = order.units ~= 'returned' and order.quantity or 0
  if hold and hold.version >= order.version then
    return UNCHANGED
  end
  local before = hold and hold.units ~= 'returned' and hold.quantity or 0
  write_hold(order, hold and hold.reserved_ms or order.created_ms)
  if active ~= before then
    count_buyer(order.user, active - before)
  end
  if not hold then
    attempts[order.user] = attempts[order.user] + 1
    new_attempts[#new_attempts + 1] = order.user
    new_attempts[#new_attempts + 1] = attempts[order.user]
  end
  if active > before then
    take(active - before)
    return ADOPTED
  elseif active < before then
    give_back(before - active, order.refused)
    return order.refused and WITHHELD or GAVE_BACK
  end
  return hold and NOTED or TOMBSTONE
end

for i, order in ipairs(orders) do
  reply[i + 2] = apply(order)
  if late_count > 0 and kept_version(order.id) <= order.version then
    redis.call('HDEL', KEYS[7], order.id)
  end
end

local some_bought, none_bought = {}, {}
for user in pairs(changed_buyers) do
  if bought[user] == 0 then
    none_bought[#none_bought + 1] = user
  else
    some_bought[#some_bought + 1] = user
    some_bought[#some_bought + 1] = bought[user]
  end
end
local function write(command, key, values)
  if #values > 0 then
    redis.call(command, key, unpack(values))
  end
end
write('HSET', KEYS[2], new_holds)
write('HSET', KEYS[3], some_bought)
write('HDEL', KEYS[3], none_bought)
write('HSET', KEYS[5], new_attempts)
redis.call('ZREM', KEYS[4], unpack(ids))
redis.call('HSET', KEYS[1], 'available', available, 'withheld', withheld)
if available > 0 and not offered_before then
  redis.call('HSET', KEYS[1], 'reopen_ms', now + lease_ms, 'reopen_as', 'sold_out')
end
return reply
