-- Stores the next chunk of an upload if it fits into the budgets. Repeating a call stores nothing more.
-- ARGV: id, upload, chunk number, payload ('': only check for room), bytes of it and its expected results, client,
--       ttl_ms, most bytes of all jobs, most bytes of one client's jobs.
-- Returns 'stored' | 'large' (it can never fit) | 'full' | 'client_full'.
local staged, member = job_key(ARGV[1]) .. ':upload:' .. ARGV[2], 'upload:' .. ARGV[1] .. ':upload:' .. ARGV[2]
local bytes, client, ttl = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
if redis.call('HEXISTS', staged, ARGV[3]) == 1 then return 'stored' end
prune()
local held = tonumber(string.match(redis.call('HGET', SIZES, member) or '', '^%d+')) or 0
local verdict = room(client, held, bytes, tonumber(ARGV[8]), tonumber(ARGV[9]))
if verdict == 'stored' and ARGV[4] ~= '' then
  redis.call('HSET', staged, ARGV[3], ARGV[4])
  account(member, client, held + bytes)
  set_lifetime(member, ttl, { staged })
end
return verdict
