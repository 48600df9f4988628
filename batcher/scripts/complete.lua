-- Writes results, tells who waits, drops leases and entries. Idempotent: a second time finds nothing to drop.
-- ARGV: result_ms, failure_ms, then id, payload for each. Returns how many entries were still waiting for theirs.
local result_ms, failure_ms = ARGV[1], ARGV[2]
local hints, answered = {}, 0
for i = 3, #ARGV, 2 do
  local id, payload = ARGV[i], ARGV[i + 1]
  local key = entry_key(id)
  local failed = string.sub(payload, -1) == '\n'
  if redis.call('ZREM', INFLIGHT, id) == 0 then
    -- Late: the lease had ended. If the entry was queued anew meanwhile, its cost leaves the lane with it.
    local facts = redis.call('HMGET', key, 'attempts', 'lane', 'cost')
    if facts[1] == '0' then uncount(facts[2], facts[3]) end
  end
  redis.call('SET', result_key(id), payload, 'PX', failed and failure_ms or result_ms)
  local names = waiters(key)
  for _, api in ipairs(names) do
    local list = hints[api] or {}
    list[#list + 1] = id .. '\n' .. payload
    hints[api] = list
  end
  answered = answered + redis.call('DEL', key)
end
for api, list in pairs(hints) do
  local name = P .. ':reply:' .. api
  for i = 1, #list, 1000 do redis.call('RPUSH', name, unpack(list, i, math.min(i + 999, #list))) end
  redis.call('PEXPIRE', name, HINT_MS)
end
return answered
