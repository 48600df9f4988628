-- Ends a job. A job that has ended stays as it is: its status never goes backwards, nor sideways.
-- ARGV: id, attempt ('' for a decision from outside), status, error_code, error, ttl_ms.
-- Returns the status of the job afterwards | 'gone' | 'superseded'.
local id, attempt, status, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6])
local job = P .. ':job:' .. id
local facts = redis.call('HMGET', job, 'status', 'attempt')
if not facts[1] then return 'gone' end
if facts[1] ~= 'queued' and facts[1] ~= 'running' then return facts[1] end
if attempt ~= '' and attempt ~= facts[2] then return 'superseded' end
redis.call('HSET', job, 'status', status, 'finished_ms', now, 'rate', 0)
if ARGV[4] ~= '' then redis.call('HSET', job, 'error_code', ARGV[4], 'error', ARGV[5]) end
redis.call('HINCRBY', P .. ':jobs:totals', status, 1)
redis.call('PEXPIRE', P .. ':jobs:totals', ttl)
redis.call('ZREM', P .. ':jobs:queued', id)
redis.call('ZREM', P .. ':jobs:running', id)
for _, key in ipairs({ job, job .. ':input', job .. ':output', P .. ':jobs' }) do redis.call('PEXPIRE', key, ttl) end
return status
