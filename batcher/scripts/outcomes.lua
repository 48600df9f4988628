-- The slow poll behind lost hints. ARGV: ids. Returns, for each, its result | 'waiting' | 'gone'.
local states = {}
for i, id in ipairs(ARGV) do
  local result = redis.call('GET', result_key(id))
  if result then
    states[i] = result
  elseif redis.call('EXISTS', entry_key(id)) == 1 then
    states[i] = 'waiting'
  else
    states[i] = 'gone'
  end
end
return states
