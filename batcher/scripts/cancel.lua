-- An API process no longer waits. An entry that nobody waits for, and nobody runs, is gone; its place in the lane is
-- void from then on: who claims passes over it. To look for it would take time that grows with the lane.
-- ARGV: api, then ids. Returns how many entries are gone.
local api, removed, void = ARGV[1], 0, 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local key = entry_key(id)
  local names, others = waiters(key), {}
  for _, name in ipairs(names) do
    if name ~= api then others[#others + 1] = name .. ' ' end
  end
  if #others < #names then redis.call('HSET', key, 'waiters', table.concat(others)) end
  if #others == 0 and not redis.call('ZSCORE', INFLIGHT, id) then
    local facts = redis.call('HMGET', key, 'attempts', 'lane', 'cost')
    if facts[1] then
      if facts[1] == '0' then uncount(facts[2], facts[3]) end
      void = void + 1
      removed = removed + redis.call('DEL', key)
    end
  end
end
if void > 0 then redis.call('HINCRBY', WAITING, 'void', void) end
return removed
