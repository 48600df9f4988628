-- Replaces a chunk of a job's texts that still is what the caller has read. A running attempt ends, because it may have read
-- the chunk, too: another may begin at once, and this was no fault of the job.
-- ARGV: id, chunk number, the chunk as read, the chunk to write. Returns 1 if it was replaced.
local job = job_key(ARGV[1])
if redis.call('HGET', job .. ':input', ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('HSET', job .. ':input', ARGV[2], ARGV[4])
local fields = redis.call('HMGET', job, 'status', 'token')
if fields[1] == 'running' and fields[2] ~= '' then
  redis.call('HINCRBY', job, 'stalled', -1)
  redis.call('HSET', job, 'token', '', 'seen_ms', 0)
end
return 1
