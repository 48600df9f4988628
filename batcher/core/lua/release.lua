-- A worker that stops gives back what it has claimed but not started: to the head of its lane, attempt not charged.
-- ARGV: ids in the order of the claim. Returns how many were given back.
local released = 0
for i = #ARGV, 1, -1 do
  local id = ARGV[i]
  if redis.call('ZREM', INFLIGHT, id) == 1 then
    local _, lane, cost = string.match(entry_of(id) or '', HEAD)
    if lane then
      local attempts, worker, lease, looked, beat, blame = claim_parts(claim_of(id))
      if attempts > 1 then
        keep_claim(id, claim_line(attempts - 1, worker, lease, looked, beat, blame))
        redis.call('LPUSH', SOLO, id)
      else
        redis.call('HDEL', CLAIMS, id)
        count(lane, cost)
        redis.call('LPUSH', list_of(lane), id)
      end
      released = released + 1
    else
      forget(id)
    end
  end
end
if released > 0 then ring() end
return released
