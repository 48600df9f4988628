-- Recovers what dead workers held, drops what is past its budget at the heads of the lanes, and says how things stand.
-- Where memory is short, the cache gives way: it is not written for a moment, and some of what it holds goes.
-- ARGV: limit, max_attempts, what long-lived results start with, how many of them to evict, where the last sweep stopped
--       looking for them (0: nowhere), full (1: memory is so short that nothing is to be remembered).
-- Returns {recovered, expired, {entries, cost, oldest_ms} of interactive, the same of bulk, solo, in flight,
--          model fields, {worker id, fields} for each live worker, where this one stopped looking}.
local limit, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2])
local remembered, surplus, cursor, full = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
even_when_full()
now = queue_clock(true)
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
for _, id in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now)) do redis.call('DEL', worker_key(id)) end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now)
local workers = {}
for _, id in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local record = redis.call('HGETALL', worker_key(id))
  if #record > 0 then workers[#workers + 1] = { id, record } end
end

if full then redis.call('SET', FULL, '1', 'PX', 2000) end
-- In the order of the key space, which is as good as random. RANDOMKEY would take ten times as long for each.
local looked = 0
while surplus > 0 and looked < 4 * surplus do
  local found = redis.call('SCAN', cursor, 'MATCH', remembered .. '*', 'COUNT', 200)
  cursor, looked = found[1], looked + 200
  if #found[2] > 0 then
    local gone = redis.pcall('UNLINK', unpack(found[2]))
    if type(gone) == 'table' then break end -- forbidden
    surplus = surplus - gone
  end
end
return { recovered, expired, interactive, bulk, redis.call('LLEN', SOLO), redis.call('ZCARD', INFLIGHT),
  redis.call('HGETALL', MODEL), workers, cursor }
