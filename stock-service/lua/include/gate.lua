-- include/gate.lua — shared by every script: the clock, the gate, and reading keys that may be of the wrong type.

-- What the first element of every reply says about the item's gate.
local OPEN, UNKNOWN, CLOSED, BROKEN = 0, -1, -10, -11

-- The id of this very server process. A restart, a failover, a restored copy and a server that the slot was moved to all
-- have another one, so books that were loaded into one process are never sold from by another.
local function server_run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

-- The id of this server's time as a primary: each promotion has a new one. A primary that was demoted and promoted again is
-- the same process, with books that it got as a replica: they lack what was granted last before it was demoted.
local function server_replid()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Reads that must not raise: a key of the wrong type makes them answer nil.
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    return nil
  end
  return reply
end

-- The gate of the item KEYS[1], of its fields `run_id` and `epoch` and of any field that a loaded item always has. An item
-- that an older version of load_commit.lua has loaded has no `replid`.
local function gate_of(run_id, epoch, sale, epoch_min)
  if not run_id and not epoch and not sale then
    return UNKNOWN
  end
  if run_id and epoch and run_id == server_run_id() and tonumber(epoch) >= epoch_min then
    local replid = try('HGET', KEYS[1], 'replid')
    if not replid or replid == server_replid() then
      return OPEN
    end
  end
  return CLOSED
end

-- The books contradict themselves: the gate is closed and the alarm counts, from 1 again when the last one was long ago.
-- The load that would open the gate is not begun while too many count; see src/check.rs.
local function close_as_wrong(item, alarm, why, calm_ms)
  local now = now_ms()
  if redis.call('TYPE', alarm).ok ~= 'hash' then
    redis.call('UNLINK', alarm)
  end
  if now - (tonumber(redis.call('HGET', alarm, 'at_ms') or '0') or 0) > calm_ms then
    redis.call('HDEL', alarm, 'times')
  end
  local times = (tonumber(redis.call('HGET', alarm, 'times') or '0') or 0) + 1
  redis.call('HSET', alarm, 'times', times, 'at_ms', now, 'why', why)
  redis.call('HDEL', item, 'run_id')
  return times
end
