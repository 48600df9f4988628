-- A stopping worker deletes its record. If its engine broke, the leases of the entries that may be the cause end at once,
-- so that they are handled like those of a dead worker. ARGV: worker, then ids.
redis.call('ZREM', WORKERS, ARGV[1])
now = queue_clock()
for i = 2, #ARGV do redis.call('ZADD', INFLIGHT, 'XX', now, ARGV[i]) end
redis.call('ZREM', IDLE, ARGV[1])
redis.call('DEL', wake_key(ARGV[1]))
wake_workers(#ARGV - 1)
return redis.call('DEL', worker_key(ARGV[1]))
