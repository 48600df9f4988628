-- Adds what one API process has counted, once: a call that is sent again is recognised by its number.
-- ARGV: api, number of the call, its clients (JSON), for how many ms usage is kept, then name, day and five counts for each:
-- texts, tokens, requests, hits, errors.
-- Returns for each its texts of that day.
local CLIENTS, CLIENTS_MS = P .. ':clients', 60000
local COUNTS = { 'texts', 'tokens', 'requests', 'hits', 'errors' }
local time_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
even_when_full()
local before = redis.call('HGET', CLIENTS, ARGV[1])
local again = before and string.match(before, '^%d+ (%d+) ') == ARGV[2]
local new = redis.call('HSET', CLIENTS, ARGV[1], string.format('%.0f %s %s', time_ms, ARGV[2], ARGV[3]))
redis.call('PEXPIRE', CLIENTS, CLIENTS_MS)
if new == 1 then
  local all = redis.call('HGETALL', CLIENTS)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) + CLIENTS_MS < time_ms then redis.call('HDEL', CLIENTS, all[i]) end
  end
end
local totals = {}
for i = 5, #ARGV, 7 do
  local day = P .. ':usage:' .. ARGV[i + 1]
  for n, count in ipairs(COUNTS) do
    local by = again and '0' or ARGV[i + 1 + n]
    local sum = redis.call('HINCRBY', day, ARGV[i] .. ' ' .. count, by)
    if n == 1 then totals[#totals + 1] = sum end
  end
  redis.call('PEXPIRE', day, ARGV[4])
end
return totals
