-- Asks all processes a question, which they read with the snapshot or a heartbeat. ARGV: token, question ('': ends it), for
-- how many ms. Returns 1, or 0 while another question is open.
even_when_full()
now = queue_clock()
local ends, token = string.match(redis.call('HGET', SNAPSHOT, 'asked') or '', '^(%d+) (%w+) ')
if ends and token ~= ARGV[1] and tonumber(ends) > now then return 0 end
if ARGV[2] == '' then
  redis.call('HDEL', SNAPSHOT, 'asked')
else
  redis.call('HSET', SNAPSHOT, 'asked', string.format('%.0f %s %s', now + tonumber(ARGV[3]), ARGV[1], ARGV[2]))
  redis.call('PEXPIRE', SNAPSHOT, SNAPSHOT_MS)
end
return 1
