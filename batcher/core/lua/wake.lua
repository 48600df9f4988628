-- Wakes one more worker if anything waits: the worker that was woken for it may be dead, frozen or disconnected.
-- Returns how many workers are still idle; 0 if nothing waits.
now = queue_clock()
if count_waiting() == 0 then return 0 end
wake_workers(1)
return redis.call('ZCARD', IDLE)
