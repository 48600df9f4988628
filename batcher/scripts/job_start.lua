-- Begins an attempt at a job; from now on only this attempt may write results.
-- ARGV: id, ttl_ms, most_stalled (attempts in a row that may end without progress).
-- Returns {status | 'gone', attempt, chunks done, chunks, total, chunk_texts, ms since the first attempt began}.
local id, ttl, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local job = P .. ':job:' .. id
local facts = redis.call('HMGET', job, 'status', 'done', 'stalled_at', 'started_ms', 'chunks', 'total', 'chunk_texts')
local status = facts[1]
if not status then return { 'gone', 0, 0, 0, 0, 0, 0 } end
local started = tonumber(facts[4]) or now
if status == 'queued' or status == 'running' then
  if facts[2] ~= facts[3] then redis.call('HSET', job, 'stalled', 0, 'stalled_at', facts[2]) end
  if redis.call('HINCRBY', job, 'stalled', 1) > most then
    status = 'failed'
    redis.call('HSET', job, 'status', status, 'finished_ms', now, 'error_code', 'job_stalled',
      'error', most .. ' attempts in a row ended without progress')
    redis.call('ZREM', P .. ':jobs:running', id)
    redis.call('HINCRBY', P .. ':jobs:totals', status, 1)
    redis.call('PEXPIRE', P .. ':jobs:totals', ttl)
  else
    status = 'running'
    redis.call('HSET', job, 'status', status, 'started_ms', started)
    redis.call('ZADD', P .. ':jobs:running', started, id)
    redis.call('PEXPIRE', P .. ':jobs:running', ttl)
  end
  redis.call('ZREM', P .. ':jobs:queued', id)
  redis.call('HINCRBY', job, 'attempt', 1)
  for _, key in ipairs({ job, job .. ':input', job .. ':output' }) do redis.call('PEXPIRE', key, ttl) end
end
return { status, tonumber(redis.call('HGET', job, 'attempt')), redis.call('LLEN', job .. ':output'),
  tonumber(facts[5]), tonumber(facts[6]), tonumber(facts[7]), now - started }
