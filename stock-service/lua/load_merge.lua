#!lua
-- load_merge.lua — brings one page of `unsettled` in line with what the load in progress has staged.
--
-- KEYS  1 holds   2 unsettled   3 loading   4 staged holds   5 staged buyers   6 staged attempts
-- ARGV  1 schema (1)   2 epoch of the load   3 how many entries of `unsettled` to pass over   4 most entries to look at
--
-- Returns { looked at, stay, merged }: of the entries looked at, how many stay in `unsettled`, to be passed over by the
-- next call, and how many of these were staged by this call; { -1 } when this load is not the one in progress in this
-- server process. The end is reached when fewer are looked at than asked for; only then can the load be committed.
--
-- An order that the source of truth knows leaves `unsettled`. One that it does not know is counted as held, and stays. By
-- pages, because Redis answers nobody meanwhile and there may be hundreds of thousands; with the gate closed nothing
-- moves between two pages. A page may be repeated: what was merged has version 0, what is known a higher one.

--@include gate
--@include hold

local PAGE_MAX = 2000
assert(#KEYS == 6 and #ARGV == 4 and ARGV[1] == '1', 'load_merge.lua: expected 6 keys, 4 arguments, schema 1')
local skip, most = tonumber(ARGV[3]), tonumber(ARGV[4])
assert(skip and most and most >= 1 and most <= PAGE_MAX, 'load_merge.lua: bad page')

local loading = try('HMGET', KEYS[3], 'run_id', 'epoch')
local ids = try('ZRANGE', KEYS[2], skip, skip + most - 1)
if not loading or loading[1] ~= server_run_id() or loading[2] ~= ARGV[2] or not ids or not try('HLEN', KEYS[1]) then
  return { -1 }
end

local settled, kept, stay, active = {}, {}, 0, 0
if #ids > 0 then
  local staged, holds = redis.call('HMGET', KEYS[4], unpack(ids)), redis.call('HMGET', KEYS[1], unpack(ids))
  for i, id in ipairs(ids) do
    local quantity, units, version, _, user = parse_hold(staged[i] or holds[i] or '')
    if staged[i] and version == 0 then
      stay = stay + 1
    elseif not staged[i] and units == 'held' then
      stay = stay + 1
      kept[#kept + 1] = id
      kept[#kept + 1] = holds[i]
      redis.call('HINCRBY', KEYS[5], user, quantity)
      redis.call('HINCRBY', KEYS[6], user, 1)
      active = active + quantity
    else
      settled[#settled + 1] = id
    end
  end
end
if #kept > 0 then
  redis.call('HSET', KEYS[4], unpack(kept))
  redis.call('HINCRBY', KEYS[3], 'active', active)
  redis.call('HINCRBY', KEYS[3], 'merged', #kept / 2)
end
if #settled > 0 then
  redis.call('ZREM', KEYS[2], unpack(settled))
end
if #ids < most then
  redis.call('HSET', KEYS[3], 'complete', 1)
end
return { #ids, stay, #kept / 2 }
