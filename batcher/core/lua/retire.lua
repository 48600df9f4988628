-- A worker that stops takes its record away. The leases of what broke its engine, or may have, end at once: these entries
-- are judged as those of a worker that has died. ARGV: worker, then ids.
redis.call('ZREM', WORKERS, ARGV[1])
now = queue_clock()
for i = 2, #ARGV do redis.call('ZADD', INFLIGHT, 'XX', now, ARGV[i]) end
if #ARGV > 1 then ring() end
return redis.call('DEL', worker_key(ARGV[1]))
