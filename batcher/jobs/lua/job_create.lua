-- Turns an upload into a job, atomically. Repeating a call finds the job it has created.
-- ARGV: id, upload, total, chunk_texts, chunks, digest, ttl_ms, most (jobs that may wait), owner ('': visible to all),
--       client, keep_input (1: keep the input after the job ends), trace, batch, webhook, file (JSON, or ''),
--       queue (of the model; '': the first), bytes of the input, own lifetime in ms after its end ('': that of all jobs),
--       name of the client's key ('': it has none).
-- Returns {'created' | 'exists' | 'full' | 'client_full' | 'lost', digest of the existing job}.
local id, upload, total, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[7])
local job, member = job_key(id), 'upload:' .. id .. ':upload:' .. upload
local staged = job .. ':upload:' .. upload
prune()
local outcome, digest = 'created', ARGV[6]
local known = redis.call('HMGET', job, 'upload', 'digest')
local crowd = not known[1] and crowded(ARGV[10], tonumber(ARGV[8]))
if known[1] then
  outcome, digest = known[1] == upload and 'created' or 'exists', known[2]
elseif crowd then
  outcome, digest = crowd, ''
elseif redis.call('EXISTS', staged) == 0 then
  outcome, digest = 'lost', ''
end
local held = tonumber(string.match(redis.call('HGET', SIZES, member) or '', '^%d+')) or 0
remove(member)
if known[1] or outcome ~= 'created' then
  redis.call('UNLINK', staged)
  return { outcome, digest }
end

local place = string.format('%016.0f:%s', clock[1] * 1000000 + clock[2], id)
redis.call('UNLINK', job .. ':output', job .. ':models') -- of an earlier job, if only its record was evicted
redis.call('RENAME', staged, job .. ':input')
redis.call('HSET', job, 'status', 'queued', 'total', total, 'done', 0, 'failed', 0, 'chunk_texts', ARGV[4],
  'chunks', ARGV[5], 'digest', digest, 'upload', upload, 'place', place, 'created_ms', now, 'attempt', 0,
  'owner', ARGV[9], 'keep_input', ARGV[11], 'trace', ARGV[12], 'batch', ARGV[13], 'webhook', ARGV[14],
  'file', ARGV[15], 'queue', ARGV[16], 'key', ARGV[19],
  'input_bytes', ARGV[17], 'reserved', held - tonumber(ARGV[17]), 'output_bytes', 0, 'ttl_ms', ARGV[18])
redis.call('ZADD', ALL, 0, place)
account(place, ARGV[10], held)
list(place, nil, 'queued')
keep(place, { job .. ':input' })
keep_lists(ttl)
use_file(ARGV[13], 1, ttl)
return { outcome, digest }
