-- The slow poll for results whose hints were lost. ARGV: ids. Returns, for each, its result | 'waiting' | 'gone'.
-- While an entry exists, any stored result comes from an earlier run, possibly of an older model, and is ignored.
local states = {}
for i, id in ipairs(ARGV) do
  if redis.call('EXISTS', entry_key(id)) == 1 then
    states[i] = 'waiting'
  else
    states[i] = redis.call('GET', result_key(id)) or 'gone'
  end
end
return states
