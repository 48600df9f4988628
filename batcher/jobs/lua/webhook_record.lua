-- Records the attempts to deliver the webhook of a job, and when the next one is due.
-- ARGV: id, place of the job, attempts as JSON, pause_ms ('': there is no further attempt).
local job, due = job_key(ARGV[1]), P .. ':webhooks'
if redis.call('HGET', job, 'place') ~= ARGV[2] then return 0 end
redis.call('HSET', job, 'deliveries', ARGV[3])
if ARGV[4] == '' then
  redis.call('ZREM', due, ARGV[1])
  redis.call('HDEL', job, 'next_delivery_ms')
else
  redis.call('ZADD', due, now + tonumber(ARGV[4]), ARGV[1])
  redis.call('HSET', job, 'next_delivery_ms', now + tonumber(ARGV[4]))
end
return 1
