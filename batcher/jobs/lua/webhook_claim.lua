-- Takes the webhook that is due next, for as long as the lease. ARGV: lease_ms.
-- Returns the id of its job, or nil. A job that was deleted, or created again, has none due.
local due = P .. ':webhooks'
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 100)) do
  local status = redis.call('HGET', job_key(id), 'status')
  if status and not is_open(status) then
    redis.call('ZADD', due, now + tonumber(ARGV[1]), id)
    return id
  end
  redis.call('ZREM', due, id)
end
return nil
