-- Removes a job that has ended, with its data. ARGV: id. Returns 1, or 0 if it does not exist or has not ended.
local job = job_key(ARGV[1])
local facts = redis.call('HMGET', job, 'status', 'place')
if not facts[1] or is_open(facts[1]) then return 0 end
remove(facts[2])
redis.call('UNLINK', job, job .. ':input', job .. ':output')
return 1
