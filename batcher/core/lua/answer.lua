-- Answers a question. ARGV: its token, the answer, for how many ms answers are kept.
even_when_full()
local list = P .. ':answers:' .. ARGV[1]
redis.call('RPUSH', list, ARGV[2])
redis.call('PEXPIRE', list, ARGV[3])
return 1
