-- Replaces a chunk of a job's texts that still is what the caller has read.
-- ARGV: id, chunk number, the chunk as read, the chunk to write. Returns 1 if it was replaced.
local key = job_key(ARGV[1]) .. ':input'
if redis.call('HGET', key, ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('HSET', key, ARGV[2], ARGV[4])
return 1
