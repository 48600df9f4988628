-- A stopping worker returns entries that it has claimed but not started to the head of their lane, without counting the
-- attempt. ARGV: ids in the order of the claim. Returns how many were released.
local released = 0
for i = #ARGV, 1, -1 do
  local id = ARGV[i]
  if redis.call('ZREM', INFLIGHT, id) == 1 then
    local _, lane, cost = string.match(read_entry(id) or '', HEAD)
    if lane then
      local attempts, worker, lease, inspected, heartbeat, lost = claim_parts(read_claim(id))
      if attempts > 1 then
        write_claim(id, claim_line(attempts - 1, worker, lease, inspected, heartbeat, lost))
        redis.call('LPUSH', SOLO, id)
      else
        redis.call('HDEL', CLAIMS, id)
        add_waiting(lane, cost)
        redis.call('LPUSH', lane_list(lane), id)
      end
      released = released + 1
    else
      delete_entry(id)
    end
  end
end
now = queue_clock()
wake_workers(released)
return released
