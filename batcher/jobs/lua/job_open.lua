-- Drops jobs without a record, and returns the ids of every job that has not ended: queued jobs before running ones, oldest
-- first. Those of an earlier version lose the lifetime that it gave them. ARGV: ttl_ms.
local ids = {}
prune()
for _, status in ipairs({ 'queued', 'running' }) do
  for _, place in ipairs(redis.call('ZRANGE', index_of(status), 0, -1)) do
    local id = id_of(place)
    local job = job_key(id)
    if redis.call('HGET', job, 'place') == place then
      ids[#ids + 1] = id
      if redis.call('ZSCORE', ENDS, place) then keep(place, keys_of(job)) end
    else
      drop(place)
    end
  end
end
keep_lists(tonumber(ARGV[1]))
return ids
