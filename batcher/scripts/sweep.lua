-- Recovers what dead workers held, drops what is past its budget at the heads of the lanes, and says how things stand.
-- ARGV: limit, max_attempts.
-- Returns {recovered, expired, {entries, cost, oldest_ms} of interactive, the same of bulk, solo, in flight,
--          model fields, {worker id, fields} for each live worker}.
local limit, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2])
local recovered = recover(limit, max_attempts)
local expired = 0

local function tidy(lane)
  local list, oldest = list_of(lane), 0
  for _ = 1, limit do
    local id = redis.call('LINDEX', list, 0)
    if not id then break end
    local deadline, own, cost, enqueued = string.match(entry_of(id) or '', HEAD)
    if deadline and tonumber(deadline) > now then
      oldest = now - enqueued
      break
    end
    redis.call('LPOP', list)
    if deadline and not redis.call('ZSCORE', INFLIGHT, id) then
      uncount_unclaimed(id, own, cost)
      expire(id)
      expired = expired + 1
    end
  end
  local entries = redis.call('LLEN', list)
  -- The counter cannot drift for long: an empty lane has no cost.
  if entries == 0 and redis.call('HEXISTS', WAITING, lane) == 1 then redis.call('HSET', WAITING, lane, 0) end
  return { entries, math.max(tonumber(redis.call('HGET', WAITING, lane)) or 0, 0), oldest }
end

local interactive, bulk = tidy('interactive'), tidy('bulk')
if interactive[1] + bulk[1] == 0 then redis.call('HDEL', WAITING, 'void') end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now)
local workers = {}
for _, id in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local record = redis.call('HGETALL', P .. ':worker:' .. id)
  if #record > 0 then workers[#workers + 1] = { id, record } end
end
return { recovered, expired, interactive, bulk, redis.call('LLEN', SOLO), redis.call('ZCARD', INFLIGHT),
  redis.call('HGETALL', MODEL), workers }
