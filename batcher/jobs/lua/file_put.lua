-- Stores the next chunk of a file if it fits into the budgets. Repeating a call stores nothing more.
-- ARGV: id, chunk number, payload, client, ttl_ms, most bytes of all jobs, most bytes of one client's jobs.
-- Returns 'stored' | 'large' (it can never fit) | 'full' | 'client_full'.
local file, member = P .. ':file:' .. ARGV[1], 'file:' .. ARGV[1]
local client, bytes = ARGV[4], #ARGV[3]
if redis.call('HEXISTS', file, ARGV[2]) == 1 then return 'stored' end
prune()
local held = tonumber(string.match(redis.call('HGET', SIZES, member) or '', '^%d+')) or 0
local verdict = room(client, held, bytes, tonumber(ARGV[6]), tonumber(ARGV[7]))
if verdict == 'stored' then
  redis.call('HSET', file, ARGV[2], ARGV[3])
  account(member, client, held + bytes)
  set_lifetime(member, tonumber(ARGV[5]), { file })
end
return verdict
