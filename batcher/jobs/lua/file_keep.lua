-- Sets the facts of a file, and its lifetime. ARGV: id, ttl_ms, facts as JSON.
-- Returns 1, or 0 if there is no such file.
local file = P .. ':file:' .. ARGV[1]
if redis.call('EXISTS', file) == 0 then return 0 end
redis.call('HSET', file, 'facts', ARGV[3], 'ends_ms', now + tonumber(ARGV[2]))
set_lifetime('file:' .. ARGV[1], tonumber(ARGV[2]), { file })
return 1
