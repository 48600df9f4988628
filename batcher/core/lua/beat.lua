-- A worker's heartbeat: extends the leases of what it runs and renews its record and that of its model.
-- ARGV: worker, lease_ms, record_ms, takes over the model record (1 on becoming ready),
--       number of record fields, field, value, ..., number of model fields, field, value, ..., then ids.
-- Without any fields, what the last heartbeat published still holds.
-- Returns {how many leases were extended, the open question of the console (see ask.lua)}, or {-1, ''} if the fields are needed:
-- nothing else was renewed then.
local worker, lease, ttl, takeover = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local at = 5

local function fields()
  local count = tonumber(ARGV[at])
  local values = {}
  for i = at + 1, at + 2 * count do values[#values + 1] = ARGV[i] end
  at = at + 2 * count + 1
  return values
end

local record, model = fields(), fields()
local key = worker_key(worker)
-- If Redis refused its heartbeats, a working worker would be taken for dead.
even_when_full()
now = queue_clock(true)
local mine = {}
for i = 1, #model, 2 do mine[model[i]] = model[i + 1] end
local known = redis.call('HMGET', key, 'texts', 'revision')
local current = redis.call('HMGET', MODEL, 'revision', 'renewed', 'identity')
local stale = (tonumber(current[2]) or 0) + 2 * ttl < now
if #model == 0 then
  mine.revision = known[2]
  if not known[2] or not current[1] or (stale and current[1] ~= known[2]) then return { -1, '' } end
end

redis.call('HSET', key, 'beaten', now, unpack(record))
-- P:workers decides when a worker has ended; the expiry only cleans up where no API process sweeps.
redis.call('PEXPIRE', key, WORKERS_MS)
local known_until = tonumber(redis.call('ZSCORE', WORKERS, worker)) or 0
redis.call('ZADD', WORKERS, now + ttl, worker)
redis.call('PEXPIRE', WORKERS, WORKERS_MS)
if known_until <= now and not takeover then
  -- A worker that was not known, because Redis lost its data or its heartbeats were late, is in no list of idle ones, however
  -- long it waits. Its next claim lists it again. A guest that only helps does not wait here.
  local rates = redis.call('HMGET', key, 'rate', 'guest_rate')
  if rates[1] or (rates[2] or '') ~= '' then wake(worker) end
end

-- A worker that becomes ready with another model makes that model the current one; workers with the current revision renew
-- the record; a revision without live workers is replaced by that of the next heartbeat. Revisions with the same identity
-- are one model in different arithmetics, so none of them takes over from another. A worker renews the record only where it
-- lives, so another shard may still, or again, have that of a former model: `taken` says when a worker took over here (0 if
-- none did), and `live_until` when the record is stale.
local takes = takeover and (not current[3] or current[3] ~= mine.identity)
if takes or not current[1] or stale or current[1] == mine.revision then
  if takes or current[1] ~= mine.revision then redis.call('HSET', MODEL, 'taken', takes and now or 0) end
  redis.call('HSET', MODEL, 'renewed', now, 'live_until', now + 2 * ttl, unpack(model))
end

-- Texts that all workers have classified, so that the rate is known without every worker's record.
local texts = tonumber(known[1]) and #record > 0 and tonumber(redis.call('HGET', key, 'texts')) or 0
if texts > (tonumber(known[1]) or 0) then
  redis.call('HINCRBY', SNAPSHOT, 'worked', texts - known[1])
  redis.call('PEXPIRE', SNAPSHOT, SNAPSHOT_MS)
end

-- Also of an entry whose lease had ended and that another worker has claimed since: as long as either of them runs it, its
-- result is near, and a third worker would only compute it once more.
local extended = 0
for i = at, #ARGV do
  if redis.call('ZSCORE', INFLIGHT, ARGV[i]) then
    redis.call('ZADD', INFLIGHT, now + lease, ARGV[i])
    extended = extended + 1
  end
end
local question = redis.call('HGET', SNAPSHOT, 'asked') or ''
if (tonumber(string.match(question, '^%d+')) or 0) <= now then question = '' end
return { extended, question }
