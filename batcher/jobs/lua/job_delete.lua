-- Removes a job that has ended, with its data. ARGV: id. Returns 1, or 0 if it does not exist or has not ended.
local job = job_key(ARGV[1])
local fields = redis.call('HMGET', job, 'status', 'place')
if not fields[1] or is_open(fields[1]) then return 0 end
remove(fields[2])
redis.call('UNLINK', unpack(keys_of(job)))
return 1
