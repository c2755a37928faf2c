#!lua flags=no-writes
-- late.lua — some of the orders that apply_order.lua kept for after a load.
--
-- KEYS  1 late
-- ARGV  1 schema (1)   2 how many, at most
--
-- Returns order id, kept text (version:quantity:units:created_ms:refused:user), and so on; empty when there is none or the
-- key is of the wrong type. They leave when apply_order.lua applies them, so the next call answers others: the key is
-- never read as a whole, however much a long load has kept.

--@include gate

assert(#KEYS == 1 and #ARGV == 2 and ARGV[1] == '1', 'late.lua: expected 1 key, 2 arguments, schema 1')
local most = tonumber(ARGV[2])
assert(most and most >= 1, 'late.lua: how many must be a number')
local reply, cursor = {}, '0'
repeat
  local page = try('HSCAN', KEYS[1], cursor, 'COUNT', most) or { '0', {} }
  cursor = page[1]
  for i = 1, math.min(#page[2], most * 2) do
    reply[i] = page[2][i]
  end
until cursor == '0' or #reply > 0
return reply
