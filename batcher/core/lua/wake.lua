-- Wakes one more worker if anything waits: the worker that was woken for it may be dead, frozen or disconnected.
-- Returns {how many workers are still idle, 0 if nothing waits, -1 if there was none to wake; then for how many ms the
-- first entry has waited}.
now = queue_clock()
if count_waiting() == 0 then return { 0, 0 } end
if wake_workers(1) > 0 then return { redis.call('ZCARD', IDLE), 0 } end
local since = now
for _, list in ipairs({ FIRST, Q, BULK, SOLO }) do
  local id = redis.call('LINDEX', list, 0)
  local _, _, _, enqueued = string.match(id and read_entry(id) or '', HEAD)
  since = math.min(since, tonumber(enqueued) or now)
end
return { -1, now - since }
