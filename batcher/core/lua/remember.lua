-- Caches results in a Redis of the cache's own, whose epoch is KEYS[1]. Each forget removes it, and the next worker begins another.
-- Nothing is written unless the epoch is the one that the worker knew before it claimed the texts: they may have been forgotten since.
-- ARGV: the epoch that the worker knew, one to begin if there is none, its lifetime in ms, then key, result, lifetime in ms for each.
-- Returns the epoch.
local epoch = redis.call('GET', KEYS[1])
if epoch == ARGV[1] then
  for i = 4, #ARGV, 3 do redis.call('SET', ARGV[i], ARGV[i + 1], 'PX', ARGV[i + 2]) end
end
epoch = epoch or ARGV[2]
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[3])
return epoch
