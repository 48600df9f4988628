-- Recovers the entries of dead workers, expires those past their deadline at the heads of the lanes, and reports the state
-- of the queue. When memory is short, it suspends writes to the cache for a moment and evicts some cached results.
-- ARGV: limit, max_attempts, cache key prefix, how many cached results to evict, the scan cursor that the last sweep
--       returned (0: none), full (1: memory is too short to cache anything).
-- Returns {recovered, expired, {entries, cost, oldest_ms} of interactive, the same of bulk, solo, in flight,
--          model fields, {worker id, fields} for each live worker, the scan cursor}.
local limit, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2])
local cache_prefix, surplus, cursor, full = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
even_when_full()
now = queue_clock(true)
local recovered = recover(limit, max_attempts)
local expired = 0

-- Expires entries at the head of a lane. Returns what is left: {entries, cost, oldest_ms}.
local function expire_head(lane)
  local list, oldest = lane_list(lane), 0
  for _ = 1, limit do
    local id = redis.call('LINDEX', list, 0)
    if not id then break end
    local deadline, own_lane, cost, enqueued = string.match(read_entry(id) or '', HEAD)
    if deadline and tonumber(deadline) > now then
      oldest = now - enqueued
      break
    end
    redis.call('LPOP', list)
    if deadline and not redis.call('ZSCORE', INFLIGHT, id) then
      subtract_unclaimed(id, own_lane, cost)
      expire(id)
      expired = expired + 1
    end
  end
  local entries = redis.call('LLEN', list)
  -- An empty lane costs nothing, so a counter that has drifted is reset here.
  if entries == 0 and redis.call('HEXISTS', WAITING, lane) == 1 then redis.call('HSET', WAITING, lane, 0) end
  return { entries, math.max(tonumber(redis.call('HGET', WAITING, lane)) or 0, 0), oldest }
end

local interactive, bulk = expire_head('interactive'), expire_head('bulk')
if interactive[1] + bulk[1] == 0 then redis.call('HDEL', WAITING, 'void') end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now)) do redis.call('DEL', worker_key(id)) end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now)
if count_waiting() > 0 then wake_workers(1) end
local workers = {}
for _, id in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local record = redis.call('HGETALL', worker_key(id))
  if #record > 0 then workers[#workers + 1] = { id, record } end
end

if full then redis.call('SET', FULL, '1', 'PX', 2000) end
-- Evicts in the order of the key space, which is as good as random; RANDOMKEY would take ten times as long for each key.
local scanned = 0
while surplus > 0 and scanned < 4 * surplus do
  local found = redis.call('SCAN', cursor, 'MATCH', cache_prefix .. '*', 'COUNT', 200)
  cursor, scanned = found[1], scanned + 200
  if #found[2] > 0 then
    local gone = redis.pcall('UNLINK', unpack(found[2]))
    if type(gone) == 'table' then break end -- the Redis user may not delete keys
    surplus = surplus - gone
  end
end
return { recovered, expired, interactive, bulk, redis.call('LLEN', SOLO), redis.call('ZCARD', INFLIGHT),
  redis.call('HGETALL', MODEL), workers, cursor }
