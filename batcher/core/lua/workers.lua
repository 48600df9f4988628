-- Returns {worker id, fields of its record} for each live worker.
now = queue_clock()
local workers = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '(' .. digits(now), '+inf')) do
  local record = redis.call('HGETALL', worker_key(id))
  if #record > 0 then workers[#workers + 1] = { id, record } end
end
return workers
