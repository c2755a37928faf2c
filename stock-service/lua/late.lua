#!lua flags=no-writes
-- late.lua — the orders that apply_order.lua kept for after a load.
--
-- KEYS  1 late
-- ARGV  1 schema (1)   2 how many, at most
--
-- Returns order id, kept text (version:quantity:units:created_ms:refused:user), and so on; empty when there is none or the
-- key is of the wrong type. They leave when apply_order.lua applies them.

--@include gate

assert(#KEYS == 1 and #ARGV == 2 and ARGV[1] == '1', 'late.lua: expected 1 key, 2 arguments, schema 1')
local most = tonumber(ARGV[2])
local all = try('HGETALL', KEYS[1]) or {}
local reply = {}
for i = 1, math.min(#all, most * 2) do
  reply[i] = all[i]
end
return reply
