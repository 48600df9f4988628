-- Appends chunks of results and returns whether the attempt may continue.
-- Only the newest attempt may append, and only in order. Repeating a call adds nothing.
-- ARGV: id, token of the attempt, first (number of the first chunk), failed and truncated (entries among them), tokens
--       that were left out of the truncated ones, rate, model, ttl_ms, names of the models that answered (in lines), how
--       many chunks, the chunks, and for each of them the models that answered its texts, unless they are not known.
-- Returns the status of the job | 'gone' | 'superseded'.
local id, token, first, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[9])
local job = job_key(id)
local output, models = job .. ':output', job .. ':models'
local fields = redis.call('HMGET', job, 'status', 'token', 'total', 'chunk_texts', 'done', 'place', 'input_bytes')
local status, total, place = fields[1], tonumber(fields[3]), fields[6]
if not status then return 'gone' end
if fields[2] ~= token then return 'superseded' end
if status ~= 'running' then return status end
local held, added = redis.call('LLEN', output), tonumber(ARGV[11])
local last = 11 + added
if added > 0 and held == first then
  local bytes = 0
  for i = 12, #ARGV do bytes = bytes + #ARGV[i] end
  redis.call('RPUSH', output, unpack(ARGV, 12, last))
  if #ARGV > last then
    -- Chunks of an attempt that did not say have none, and those of an earlier job with this id do not count.
    if held == 0 then redis.call('UNLINK', models) end
    for _ = redis.call('LLEN', models), held - 1 do redis.call('RPUSH', models, '') end
    redis.call('RPUSH', models, unpack(ARGV, last + 1))
  end
  local names = redis.call('HGET', job, 'models') or ''
  for name in string.gmatch(ARGV[10], '[^\n]+') do
    if not string.find('\n' .. names, '\n' .. name .. '\n', 1, true) then names = names .. name .. '\n' end
  end
  if names ~= '' then redis.call('HSET', job, 'models', names) end
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
set_lifetime(place, ttl, keys_of(job))
renew(ttl, { ALL, index_of(status) })
return status
