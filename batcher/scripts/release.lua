-- A worker that stops gives back what it has claimed but not started: to the head of its lane, attempt not charged.
-- ARGV: ids in the order of the claim. Returns how many were given back.
local released = 0
for i = #ARGV, 1, -1 do
  local id = ARGV[i]
  if redis.call('ZREM', INFLIGHT, id) == 1 then
    local key = entry_key(id)
    local facts = redis.call('HMGET', key, 'attempts', 'lane', 'cost')
    if facts[1] then
      local attempts = math.max((tonumber(facts[1]) or 1) - 1, 0)
      redis.call('HSET', key, 'attempts', attempts)
      if attempts == 0 then
        redis.call('HINCRBY', WAITING, facts[2], tonumber(facts[3]) or 0)
        redis.call('LPUSH', list_of(facts[2]), id)
      else
        redis.call('LPUSH', SOLO, id)
      end
      released = released + 1
    end
  end
end
if released > 0 then ring() end
return released
