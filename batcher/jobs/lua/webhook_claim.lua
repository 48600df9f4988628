-- Takes the webhook that is due next, for as long as the lease. ARGV: lease_ms, then the receivers, as in their URLs, that get no
-- more for now.
-- Returns the id of its job and the time in ms, or nil. A job that was deleted, or created again, has none due.
local due, busy = P .. ':webhooks', {}
for i = 2, #ARGV do busy[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 1000)) do
  local fields = redis.call('HMGET', job_key(id), 'status', 'webhook')
  if not fields[1] or is_open(fields[1]) then
    redis.call('ZREM', due, id)
  elseif not busy[string.match(fields[2] or '', '//([^/]*)') or ''] then
    redis.call('ZADD', due, now + tonumber(ARGV[1]), id)
    return { id, now }
  end
end
return nil
