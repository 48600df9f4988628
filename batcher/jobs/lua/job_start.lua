-- Begins an attempt at a job; only this attempt may then write results. Repeating a call has no further effect.
-- ARGV: id, token of the attempt, ttl_ms, most_stalled (consecutive attempts that may end without progress).
-- Returns {status | 'gone', attempt, chunks done, chunks, chunk_texts, ms since the first attempt began}.
local id, token, ttl, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local job = job_key(id)
local fields = redis.call('HMGET', job, 'status', 'done', 'stalled_at', 'started_ms', 'chunks', 'chunk_texts', 'token', 'place')
local status = fields[1]
if not status then return { 'gone', 0, 0, 0, 0, 0 } end
local started = tonumber(fields[4]) or now
if is_open(status) and fields[7] ~= token then
  if fields[2] ~= fields[3] then redis.call('HSET', job, 'stalled', 0, 'stalled_at', fields[2]) end
  redis.call('HINCRBY', job, 'attempt', 1)
  redis.call('HSET', job, 'token', token)
  if redis.call('HINCRBY', job, 'stalled', 1) > most then
    finish(id, 'failed', ttl, 'job_stalled', most .. ' consecutive attempts ended without progress')
    status = 'failed'
  else
    redis.call('HSET', job, 'status', 'running', 'started_ms', started)
    list(fields[8], status, 'running', ttl)
    set_lifetime(fields[8], ttl, keys_of(job))
    status = 'running'
  end
end
return { status, tonumber(redis.call('HGET', job, 'attempt')), redis.call('LLEN', job .. ':output'),
  tonumber(fields[5]), tonumber(fields[6]), now - started }
