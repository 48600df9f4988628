-- Sets the facts of a file, if there are any, and its lifetime. ARGV: id, ttl_ms, facts as JSON ('': unchanged).
-- Returns 1, or 0 if there is no such file.
local file = P .. ':file:' .. ARGV[1]
if redis.call('EXISTS', file) == 0 then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', file, 'facts', ARGV[3]) end
set_lifetime('file:' .. ARGV[1], tonumber(ARGV[2]), { file })
return 1
