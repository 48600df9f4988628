-- Ends an attempt before its job has ended: another may begin at once. ARGV: id, token of the attempt, '1' if this was no
-- fault of the job and must not count as an attempt without progress, ms that the job has run.
local job = job_key(ARGV[1])
if redis.call('HGET', job, 'token') ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then redis.call('HINCRBY', job, 'stalled', -1) end
redis.call('HSET', job, 'token', '', 'seen_ms', 0, 'rate', 0, 'ran_ms', ARGV[4], 'waits_since_ms', now)
return 1
