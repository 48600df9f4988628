-- Recovers the entries of dead workers, expires those past their deadline at the heads of the lanes, and publishes a snapshot
-- of the service. When memory is short, it suspends writes to the cache for a moment and evicts some cached results.
-- One API process at a time does this; the others read its snapshot. Without live workers they all do, so that each of them
-- learns of the first worker at once.
-- ARGV: api, limit, max_attempts, cache key prefix, how many cached results to evict, the scan cursor that the last sweep
--       returned (0: none), full (1: memory is too short to cache anything), used memory and its limit in bytes.
-- Returns {1 if this call has swept, recovered, the scan cursor, snapshot fields, model fields, publications, the time of Redis in s}.
local SWEEPER, SWEEPER_MS = P .. ':sweeper', 1500
local api, limit, max_attempts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cache_prefix, surplus, cursor, full = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1'
local sweeper = redis.call('GET', SWEEPER)
-- A lifetime that is longer than what was set means that the clock of Redis has been set back. The lease is not waited for:
-- the process that holds it may have ended.
if sweeper and sweeper ~= api and redis.call('PTTL', SWEEPER) <= SWEEPER_MS
  and (tonumber(redis.call('HGET', SNAPSHOT, 'workers')) or 0) > 0 then
  return { 0, 0, cursor, redis.call('HGETALL', SNAPSHOT), redis.call('HGETALL', MODEL), redis.call('HGETALL', P .. ':revisions'), clock[1] }
end
even_when_full()
redis.call('SET', SWEEPER, api, 'PX', SWEEPER_MS)
now = queue_clock(true, 'KEEPTTL')
local recovered = recover(limit, max_attempts)

-- Expires entries at the head of a lane. Returns how many are left, and `entries cost oldest_ms` of them.
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
    end
  end
  local entries = redis.call('LLEN', list)
  -- An empty lane costs nothing, so a counter that has drifted is reset here.
  if entries == 0 and redis.call('HEXISTS', WAITING, lane) == 1 then redis.call('HSET', WAITING, lane, 0) end
  local cost = math.max(tonumber(redis.call('HGET', WAITING, lane)) or 0, 0)
  return entries, string.format('%.0f %.0f %.0f', entries, cost, oldest)
end

local interactive, interactive_depth = expire_head('interactive')
local bulk, bulk_depth = expire_head('bulk')
if interactive + bulk == 0 then redis.call('HDEL', WAITING, 'void') end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now)) do redis.call('DEL', worker_key(id)) end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now)
if count_waiting() > 0 then wake_workers(1) end

-- Guests live at another shard, which does not answer them.
local workers, rate, guests, guest_rate, fallen, first_fallen, revisions = 0, 0, 0, 0, 0, '', {}
for _, id in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local record = redis.call('HMGET', worker_key(id), 'rate', 'fallback', 'engine', 'precision', 'arithmetic', 'guest_rate', 'revision')
  if record[1] then
    workers, rate = workers + 1, rate + (tonumber(record[1]) or 0)
    if record[7] and not revisions[record[7]] then
      revisions[#revisions + 1], revisions[record[7]] = record[7], true
    end
    if (record[2] or '') ~= '' then
      fallen = fallen + 1
      if fallen == 1 then
        first_fallen = table.concat({ id, record[3] or '', record[4] or '', record[5] or '', record[2] }, '\n')
      end
    end
  elseif tonumber(record[6]) then
    guests, guest_rate = guests + 1, guest_rate + tonumber(record[6])
  end
end
local current = redis.call('HMGET', MODEL, 'taken', 'live_until')
local live = (tonumber(current[2]) or 0) > now
redis.call('HSET', SNAPSHOT, 'model_since', live and tonumber(current[1]) or -1, 'workers', workers, 'rate', string.format('%.1f', rate),
  'guests', guests, 'guest_rate', string.format('%.1f', guest_rate), 'fallen', fallen, 'first_fallen', first_fallen,
  'interactive', interactive_depth, 'bulk', bulk_depth, 'solo', redis.call('LLEN', SOLO), 'in_flight', redis.call('ZCARD', INFLIGHT),
  'pauses', pauses_left(), 'revisions', table.concat(revisions, ' '))
-- The limit is 0 if this process has not asked yet.
if ARGV[9] ~= '0' then redis.call('HSET', SNAPSHOT, 'memory', ARGV[8], 'memory_limit', ARGV[9]) end
-- That of a revision that is no longer served expires soon. It has no holds: these are beside the queue of the first model.
local fields, lasts = redis.call('HGETALL', SNAPSHOT), workers + guests > 0
for i = 1, #fields, 2 do lasts = lasts or string.sub(fields[i], 1, 5) == 'hold:' end
redis.call('PEXPIRE', SNAPSHOT, lasts and SNAPSHOT_MS or 300000)

if full then redis.call('SET', FULL, '1', 'PX', 2000) end
-- Evicts in the order of the key space, which is as good as random; RANDOMKEY would take ten times as long for each key.
local scanned = 0
while surplus > 0 and scanned < 4 * surplus do
  local found = redis.pcall('SCAN', cursor, 'MATCH', cache_prefix .. '*', 'COUNT', 200)
  if found.err then break end -- the Redis user may not list keys
  cursor, scanned = found[1], scanned + 200
  if #found[2] > 0 then
    local gone = redis.pcall('UNLINK', unpack(found[2]))
    if type(gone) == 'table' then break end -- the Redis user may not delete keys
    surplus = surplus - gone
  end
end
return { 1, recovered, cursor, fields, redis.call('HGETALL', MODEL), redis.call('HGETALL', P .. ':revisions'), clock[1] }
