-- Renews the lifetime of every job that has not ended, and drops jobs without a record. ARGV: ttl_ms.
-- Returns their ids: queued jobs before running ones, oldest first.
local ttl, ids = tonumber(ARGV[1]), {}
prune()
for _, status in ipairs({ 'queued', 'running' }) do
  for _, place in ipairs(redis.call('ZRANGE', index_of(status), 0, -1)) do
    local id = id_of(place)
    local job = job_key(id)
    if redis.call('HGET', job, 'place') == place then
      ids[#ids + 1] = id
      set_lifetime(place, ttl, keys_of(job))
      renew(ttl, { ALL, index_of(status) })
    else
      remove(place)
    end
  end
end
return ids
