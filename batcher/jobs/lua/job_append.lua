-- Appends chunks of results and returns whether the attempt may continue.
-- Only the newest attempt may append, and only in order. Repeating a call adds nothing.
-- ARGV: id, token of the attempt, first (number of the first chunk), failed and truncated (entries among them), tokens
--       that were left out of the truncated ones, rate, model, ttl_ms, then chunks.
-- Returns the status of the job | 'gone' | 'superseded'.
local id, token, first, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[9])
local job = job_key(id)
local output = job .. ':output'
local fields = redis.call('HMGET', job, 'status', 'token', 'total', 'chunk_texts', 'done', 'place', 'input_bytes')
local status, total, place = fields[1], tonumber(fields[3]), fields[6]
if not status then return 'gone' end
if fields[2] ~= token then return 'superseded' end
if status ~= 'running' then return status end
local held, added = redis.call('LLEN', output), #ARGV - 9
if added > 0 and held == first then
  local bytes = 0
  for i = 10, #ARGV do bytes = bytes + #ARGV[i] end
  redis.call('RPUSH', output, unpack(ARGV, 10))
  local done = math.min(total, (held + added) * tonumber(fields[4]))
  redis.call('HSET', job, 'done', done)
  redis.call('HINCRBY', job, 'failed', ARGV[4])
  if ARGV[5] ~= '0' then
    redis.call('HINCRBY', job, 'truncated', ARGV[5])
    redis.call('HINCRBY', job, 'truncated_tokens', ARGV[6])
  end
  local written = redis.call('HINCRBY', job, 'output_bytes', bytes)
  account(place, '', tonumber(fields[7]) + written + (total - done) * RESULT_BYTES)
  count('texts', done - tonumber(fields[5]), ttl)
  count('failed_texts', ARGV[4], ttl)
elseif added > 0 and held ~= first + added then
  return 'superseded'
end
redis.call('HSET', job, 'rate', ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', job, 'model', ARGV[8]) end
set_lifetime(place, ttl, { job, job .. ':input', output, ALL, index_of(status) })
return status
