-- The slow poll behind lost hints. ARGV: ids. Returns, for each, its result | 'waiting' | 'gone'.
-- What lies there while an entry waits belongs to an earlier run: to callers that have theirs, or a model that has left.
local states = {}
for i, id in ipairs(ARGV) do
  if redis.call('EXISTS', entry_key(id)) == 1 then
    states[i] = 'waiting'
  else
    states[i] = redis.call('GET', result_key(id)) or 'gone'
  end
end
return states
