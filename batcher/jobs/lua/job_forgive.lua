-- Stops an interrupted attempt from counting as one without progress. ARGV: id, token of the attempt.
local job = job_key(ARGV[1])
if redis.call('HGET', job, 'token') ~= ARGV[2] then return 0 end
redis.call('HINCRBY', job, 'stalled', -1)
return 1
