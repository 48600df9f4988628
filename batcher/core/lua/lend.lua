-- Notes that entries wait in another shard, all of whose workers are busy, and wakes an idle worker of this shard for it.
-- ARGV: number of that shard, for how many ms its first entry has waited, how long the note lasts in ms.
-- Returns how many workers are still idle, or -1 if there was none to wake.
local HELP = P .. ':help'
even_when_full()
now = queue_clock()
redis.call('ZADD', HELP, digits(now - ARGV[2]), ARGV[1])
redis.call('PEXPIRE', HELP, ARGV[3])
return wake_workers(1) > 0 and redis.call('ZCARD', IDLE) or -1
