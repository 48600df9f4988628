-- Removes a job that has ended, with its data. ARGV: id. Returns 1, or 0 where there is none that has ended.
local id = ARGV[1]
local job = P .. ':job:' .. id
local facts = redis.call('HMGET', job, 'status', 'place')
if not facts[1] or facts[1] == 'queued' or facts[1] == 'running' then return 0 end
redis.call('ZREM', P .. ':jobs', facts[2])
redis.call('UNLINK', job, job .. ':input', job .. ':output')
return 1
