-- Appends chunks of results and returns whether the attempt may continue.
-- Only the newest attempt may append, and only in order. Repeating a call adds nothing. A job whose results need more
-- than was reserved for them, and for which there is no room, fails.
-- ARGV: id, token of the attempt, first (number of the first chunk), failed and truncated (entries among them), tokens
--       that were left out of the truncated ones, bytes of the failed ones, tokens that were read, texts that a cache
--       knew, unknown (entries), rate, model, ttl_ms, names of the models that answered (in lines), most bytes of all
--       jobs, most bytes of one client's jobs, ms that the job has run, for how many ms usage is kept, labels of the
--       texts (lines of `COUNT LABEL`), most fields of a record, how many chunks, the chunks, and for each of them the
--       models that answered its texts, unless they are not known.
-- Returns the status of the job | 'gone' | 'superseded'.
local id, token, first, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[13])
local job = job_key(id)
local output, models = job .. ':output', job .. ':models'
local fields = redis.call('HMGET', job, 'status', 'token', 'total', 'chunk_texts', 'done', 'place', 'input_bytes',
  'output_bytes', 'reserved', 'key')
local status, total, place = fields[1], tonumber(fields[3]), fields[6]
if not status then return 'gone' end
if fields[2] ~= token then return 'superseded' end
if status ~= 'running' then return status end
local held, added = redis.call('LLEN', output), tonumber(ARGV[21])
local last = 21 + added
if added > 0 and held == first then
  local written = tonumber(fields[8])
  for i = 22, #ARGV do written = written + #ARGV[i] end
  local done = math.min(total, (held + added) * tonumber(fields[4]))
  -- A job of an earlier version has 100 bytes for each result.
  local reserved = math.floor((tonumber(fields[9]) or total * 100) * (total - done) / total)
  local needs = tonumber(fields[7]) + written + reserved
  local before, client = string.match(redis.call('HGET', SIZES, place) or '', '^(%d+) (.*)$')
  local more = needs - (tonumber(before) or 0)
  local verdict = more > 0 and room(client or '', needs - more, more, tonumber(ARGV[15]), tonumber(ARGV[16])) or 'stored'
  if verdict ~= 'stored' then
    finish(id, 'failed', ttl, 'results_too_large', no_room(verdict, written / done, ARGV[15], ARGV[16]))
    return 'failed'
  end
  redis.call('RPUSH', output, unpack(ARGV, 22, last))
  if #ARGV > last then
    -- Chunks of an attempt that did not say have none, and those of an earlier job with this id do not count.
    if held == 0 then redis.call('UNLINK', models) end
    for _ = redis.call('LLEN', models), held - 1 do redis.call('RPUSH', models, '') end
    redis.call('RPUSH', models, unpack(ARGV, last + 1))
  end
  local names = redis.call('HGET', job, 'models') or ''
  for name in string.gmatch(ARGV[14], '[^\n]+') do
    if not string.find('\n' .. names, '\n' .. name .. '\n', 1, true) then names = names .. name .. '\n' end
  end
  if names ~= '' then redis.call('HSET', job, 'models', names) end
  redis.call('HSET', job, 'done', done, 'output_bytes', written)
  redis.call('HINCRBY', job, 'failed', ARGV[4])
  redis.call('HINCRBY', job, 'failed_bytes', ARGV[7])
  if ARGV[5] ~= '0' then
    redis.call('HINCRBY', job, 'truncated', ARGV[5])
    redis.call('HINCRBY', job, 'truncated_tokens', ARGV[6])
  end
  if ARGV[10] ~= '0' then redis.call('HINCRBY', job, 'unknown', ARGV[10]) end
  for texts, label in string.gmatch(ARGV[19], '(%d+) ([^\n]+)') do
    local field = 'label ' .. label
    if redis.call('HEXISTS', job, field) == 1 or redis.call('HLEN', job) < tonumber(ARGV[20]) then
      redis.call('HINCRBY', job, field, texts)
    end
  end
  account(place, '', needs)
  count('texts', done - tonumber(fields[5]), ttl)
  count('failed_texts', ARGV[4], ttl)
  use(fields[10], { texts = done - tonumber(fields[5]), tokens = ARGV[8], hits = ARGV[9] }, ARGV[18])
elseif added > 0 and held ~= first + added then
  -- A replica that lacked the last results took the place of its master: another attempt begins behind those that it has.
  redis.call('HSET', job, 'token', '', 'seen_ms', 0)
  return 'superseded'
end
redis.call('HSET', job, 'rate', ARGV[11], 'ran_ms', ARGV[17], 'seen_ms', now)
if ARGV[12] ~= '' then redis.call('HSET', job, 'model', ARGV[12]) end
return status
