-- Takes entries for one worker and writes their leases.
-- ARGV: worker, most entries, most cost, most cost of bulk, lease_ms, max_attempts,
--       hands (1: free; 0: a pass is under way or other entries are held),
--       1 if this was sent to be run once work comes.
-- Returns {still waiting, skipped, expired, last ring, now, then for each: id, its entry, attempts, solo}.
local worker, most, most_cost, bulk_cost = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, max_attempts, free = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
now = queue_clock()
-- A worker that waited may be frozen or cut off by now: it gets nothing if it has not beaten lately. One that is well
-- asks again, and at once.
if ARGV[8] == '1' and (tonumber(redis.call('HGET', worker_key(worker), 'beaten')) or 0) + lease <= now then
  most, free = 0, false
end
local READ_AHEAD = 32
local lease_end, first_claim = digits(now + lease), claim_line(1, worker, lease, 0, 0, '')
local entries, freed, leases, leased, claims = {}, {}, {}, {}, {}
local taken, cost, skipped, expired = 0, 0, 0, 0

-- `in_flight`: the end of the lease that the id has already, if any; `claim`: what became of an earlier one.
local function take(id, solo, entry, in_flight, claim)
  local deadline, lane, weight = string.match(entry or '', HEAD)
  -- No entry: answered, cancelled or not ours. In flight: a second place in the lists of an id already taken.
  if not deadline or in_flight or leased[id] then
    if claim and not deadline then redis.call('HDEL', CLAIMS, id) end
    skipped = skipped + 1
    return
  end
  weight = tonumber(weight)
  if not claim then freed[lane] = (freed[lane] or 0) + weight end
  if tonumber(deadline) <= now then
    expire(id)
    expired = expired + 1
  else
    local attempts, line = 1, first_claim
    if claim then
      local before, _, _, looked, beat, blame = claim_parts(claim)
      attempts = before + 1
      line = claim_line(attempts, worker, lease, looked, beat, blame)
    end
    local pair, at = #leases, #entries
    leases[pair + 1], leases[pair + 2], leased[id] = lease_end, id, true
    claims[pair + 1], claims[pair + 2] = id, line
    taken, cost = taken + 1, cost + weight
    entries[at + 1], entries[at + 2], entries[at + 3], entries[at + 4] = id, entry, attempts, solo
  end
end

local function drain(list, entries_limit, cost_limit)
  while taken < entries_limit and cost < cost_limit do
    local ids = redis.call('LRANGE', list, 0, math.min(entries_limit - taken, READ_AHEAD) - 1)
    if #ids == 0 then return end
    local keys, read = {}, 0
    for n, id in ipairs(ids) do keys[n] = entry_key(id) end
    local asked, in_flight = redis.call('MGET', unpack(keys)), redis.call('ZMSCORE', INFLIGHT, unpack(ids))
    local claimed = redis.call('HMGET', CLAIMS, unpack(ids))
    while read < #ids and cost < cost_limit do
      read = read + 1
      take(ids[read], 0, asked[read], in_flight[read], claimed[read])
    end
    redis.call('LPOP', list, read)
  end
end

even_when_full()
recover(100, max_attempts)
-- Whoever takes from the solo list has nothing else in hand: if that worker ends now, this text may be why, and no
-- other. With hands full it gets nothing at all, so that they are free the next time.
while free and taken == 0 do
  local id = redis.call('LPOP', SOLO)
  if not id then break end
  take(id, 1, entry_of(id), redis.call('ZSCORE', INFLIGHT, id), claim_of(id))
  if taken > 0 then redis.call('SET', alone_key(worker), id, 'PX', ALONE_MS) end
end
if taken == 0 and (free or redis.call('LLEN', SOLO) == 0) then
  -- An eighth of a busy batch belongs to bulk, so that it never starves; what one lane leaves the other takes.
  local reserve = redis.call('LLEN', BULK) > 0 and 1 or 0
  local share, share_cost = most - reserve * math.floor(most / 8), most_cost - reserve * most_cost / 8
  if redis.call('EXISTS', FIRST) == 1 then
    drain(FIRST, share, share_cost)
    -- Short company for those who go first: a full pass would cost them what they gained.
    if taken > 0 then
      most_cost = math.max(cost, most_cost / 4)
      redis.call('HSET', WAITING, 'first_at', now)
    end
  elseif (tonumber(redis.call('HGET', WAITING, 'first_at')) or 0) + 1000 > now then
    most_cost = most_cost / 2 -- they will be back, and wait for the pass under way
  end
  drain(Q, share, math.min(share_cost, most_cost))
  -- Beside texts that somebody waits for, bulk gets its eighth and no more, or it would make their pass long.
  local share = redis.call('LLEN', Q) > 0 and most_cost or math.max(bulk_cost, cost * 9 / 8)
  drain(BULK, most, taken == 0 and bulk_cost or math.min(share, most_cost))
  if taken > 0 then drain(Q, most, most_cost) end
end
if taken > 0 then
  in_thousands(leases, 'ZADD', INFLIGHT)
  in_thousands(claims, 'HSET', CLAIMS)
  redis.call('PEXPIRE', CLAIMS, ALONE_MS)
end
-- Second places of those who went first, and places of those who left, are no strangers.
local void = skipped > 0 and tonumber(redis.call('HGET', WAITING, 'void')) or 0
if void > 0 then
  redis.call('HINCRBY', WAITING, 'void', -math.min(void, skipped))
  skipped = math.max(skipped - void, 0)
end
for lane, weight in pairs(freed) do uncount(lane, weight) end
local bell = redis.call('XREVRANGE', P .. ':bell', '+', '-', 'COUNT', 1)
local left = redis.call('LLEN', SOLO) + redis.call('LLEN', Q) + redis.call('LLEN', BULK)
local reply = { left, skipped, expired, bell[1] and bell[1][1] or '0-0', now }
for _, value in ipairs(entries) do reply[#reply + 1] = value end
return reply
