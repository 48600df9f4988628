-- Makes a job of an upload, whole or not at all. A repeat of the same call finds its own job.
-- ARGV: id, upload, total, chunk_texts, chunks, digest, ttl_ms, most (jobs that may wait), owner ('': anybody's).
-- Returns {'created' | 'exists' | 'full' | 'lost', digest of the job that is there}.
local id, upload, ttl = ARGV[1], ARGV[2], tonumber(ARGV[7])
local job = P .. ':job:' .. id
local staged = job .. ':upload:' .. upload
local known = redis.call('HMGET', job, 'upload', 'digest')
if known[1] then
  redis.call('UNLINK', staged)
  return { known[1] == upload and 'created' or 'exists', known[2] }
end
if redis.call('ZCARD', P .. ':jobs:queued') >= tonumber(ARGV[8]) then
  redis.call('UNLINK', staged)
  return { 'full', '' }
end
if redis.call('EXISTS', staged) == 0 then return { 'lost', '' } end

-- Members of one score sort as strings: sixteen digits of microseconds put the newest last.
local place = string.format('%016.0f:%s', clock[1] * 1000000 + clock[2], id)
redis.call('RENAME', staged, job .. ':input')
redis.call('HSET', job, 'status', 'queued', 'total', ARGV[3], 'done', 0, 'failed', 0, 'chunk_texts', ARGV[4],
  'chunks', ARGV[5], 'digest', ARGV[6], 'upload', upload, 'place', place, 'created_ms', now, 'attempt', 0,
  'owner', ARGV[9])
redis.call('ZADD', P .. ':jobs:queued', now, id)
redis.call('ZADD', P .. ':jobs', 0, place)
for _, key in ipairs({ job, job .. ':input', P .. ':jobs', P .. ':jobs:queued' }) do redis.call('PEXPIRE', key, ttl) end
return { 'created', ARGV[6] }
