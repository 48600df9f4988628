-- Adds chunks of results behind those that are there, and says whether the attempt may go on.
-- Only the newest attempt may, only in order, and a repeat of the same call adds nothing.
-- ARGV: id, attempt, first (number of the first chunk), failed (entries among them), rate, model, ttl_ms, then chunks.
-- Returns the status of the job | 'gone' | 'superseded'.
local id, attempt, first, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[7])
local job = P .. ':job:' .. id
local output = job .. ':output'
local facts = redis.call('HMGET', job, 'status', 'attempt', 'total', 'chunk_texts', 'done')
local status = facts[1]
if not status then return 'gone' end
if facts[2] ~= attempt then return 'superseded' end
if status ~= 'running' then return status end
local held, added = redis.call('LLEN', output), #ARGV - 7
if added > 0 and held == first then
  redis.call('RPUSH', output, unpack(ARGV, 8))
  local done = math.min(tonumber(facts[3]), (held + added) * tonumber(facts[4]))
  redis.call('HSET', job, 'done', done)
  redis.call('HINCRBY', job, 'failed', ARGV[4])
  redis.call('HINCRBY', P .. ':jobs:totals', 'texts', done - tonumber(facts[5]))
  redis.call('HINCRBY', P .. ':jobs:totals', 'failed_texts', ARGV[4])
  redis.call('PEXPIRE', P .. ':jobs:totals', ttl)
elseif added > 0 and held ~= first + added then
  return 'superseded'
end
redis.call('HSET', job, 'rate', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', job, 'model', ARGV[6]) end
for _, key in ipairs({ job, job .. ':input', output, P .. ':jobs:running', P .. ':jobs' }) do redis.call('PEXPIRE', key, ttl) end
return status
