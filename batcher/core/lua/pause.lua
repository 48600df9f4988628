-- Pauses a lane, or resumes it. ARGV: lane, what happens to what waits (keep | refuse | finish; '': resume), for how many ms.
-- Returns the pauses that hold now, as `lane waiting ms_left;` for each.
even_when_full()
now = queue_clock()
local kept, last = {}, 0
local function keep(lane, waiting, ends)
  kept[#kept + 1] = string.format('%s %s %.0f;', lane, waiting, ends)
  last = math.max(last, ends)
end
for lane, waiting, ends in string.gmatch(pauses, '(%l+) (%l+) (%d+);') do
  if lane ~= ARGV[1] and tonumber(ends) > now then keep(lane, waiting, tonumber(ends)) end
end
if ARGV[2] ~= '' then keep(ARGV[1], ARGV[2], now + tonumber(ARGV[3])) end
pauses = table.concat(kept)
if pauses == '' then
  redis.call('DEL', PAUSES)
else
  -- The queue's clock may be slower than that of Redis, so the key outlives the pauses for a while.
  redis.call('SET', PAUSES, pauses, 'PX', digits(2 * (last - now) + 60000))
end
if redis.call('EXISTS', SNAPSHOT) == 1 then redis.call('HSET', SNAPSHOT, 'pauses', pauses_left()) end
wake_workers(count_waiting() > 0 and 1 or 0)
return pauses_left()
