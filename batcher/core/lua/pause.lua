-- Pauses a lane, or resumes it. ARGV: lane, what happens to what waits (keep | refuse | finish; '': resume), for how many ms, the
-- number of this decision: one before the last about this lane changes nothing.
-- Returns what pauses_left does.
-- A pause lasts a day at most. Its end is remembered for as long, because another queue or shard may not know of it, and the
-- queue's clock may be slower than that of Redis.
local PAUSES_MS = '172860000'
even_when_full()
now = queue_clock()
local lane, number = ARGV[1], ARGV[4]
if tonumber(number) > (tonumber(string.match(pauses, lane .. '=(%d+);')) or 0) then
  local kept = {}
  for other, waiting, ends in string.gmatch(pauses, '(%l+) (%l+) (%d+);') do
    if other ~= lane and tonumber(ends) > now then kept[#kept + 1] = other .. ' ' .. waiting .. ' ' .. ends .. ';' end
  end
  if ARGV[2] ~= '' then kept[#kept + 1] = string.format('%s %s %.0f;', lane, ARGV[2], now + tonumber(ARGV[3])) end
  for other, last in string.gmatch(pauses, '(%l+)=(%d+);') do
    if other ~= lane then kept[#kept + 1] = other .. '=' .. last .. ';' end
  end
  pauses = table.concat(kept) .. lane .. '=' .. number .. ';'
  redis.call('SET', PAUSES, pauses, 'PX', PAUSES_MS)
  if redis.call('EXISTS', SNAPSHOT) == 1 then redis.call('HSET', SNAPSHOT, 'pauses', pauses_left()) end
  wake_workers(count_waiting() > 0 and 1 or 0)
end
return pauses_left()
