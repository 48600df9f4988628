-- A worker that stops takes its record away. ARGV: worker.
redis.call('ZREM', WORKERS, ARGV[1])
return redis.call('DEL', P .. ':worker:' .. ARGV[1])
