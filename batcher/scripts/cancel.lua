-- An API process no longer waits. An entry that nobody waits for, and nobody runs, leaves its lane.
-- ARGV: api, then ids. Returns how many entries left.
local api, removed = ARGV[1], 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local key = entry_key(id)
  redis.call('HDEL', key, 'w:' .. api)
  if #waiters(key) == 0 and not redis.call('ZSCORE', INFLIGHT, id) then
    local facts = redis.call('HMGET', key, 'attempts', 'lane', 'cost')
    if facts[1] then
      if facts[1] == '0' then
        uncount(facts[2], facts[3])
        redis.call('LREM', list_of(facts[2]), 1, id)
      else
        redis.call('LREM', SOLO, 1, id)
      end
      removed = removed + redis.call('DEL', key)
    end
  end
end
return removed
