-- Ends a job. The status of a job that has already ended does not change.
-- ARGV: id, token of the attempt ('' if not ended by an attempt), status, error_code, error, ttl_ms.
-- Returns the status of the job afterwards | 'gone' | 'superseded'.
local id, token, status = ARGV[1], ARGV[2], ARGV[3]
local fields = redis.call('HMGET', job_key(id), 'status', 'token')
if not fields[1] then return 'gone' end
if not is_open(fields[1]) then return fields[1] end
if token ~= '' and token ~= fields[2] then return 'superseded' end
finish(id, status, tonumber(ARGV[6]), ARGV[4], ARGV[5])
return status
