-- Claims entries for one worker and writes their leases.
-- ARGV: worker, most entries, most cost, most cost of bulk (-1: none, not even beside interactive entries),
--       lease_ms, max_attempts,
--       free (1 if the worker is idle; 0 if a batch is running or it holds other entries),
--       1 if the worker sent this in advance, to run when it is woken,
--       for how many ms the worker has had nothing to do (-1: it is busy),
--       with several shards: the note of one that turned out to need no help, or -; else empty.
-- Returns {still waiting, skipped, expired, now, the note of a shard that needs help before this one does (empty: none),
-- then for each: id, its entry, attempts, solo}. A note is `number since`.
local worker, most, most_cost, bulk_cost = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, max_attempts, free = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local idle_ms = tonumber(ARGV[9])
now = queue_clock()
-- A worker that waited may be frozen or disconnected by now, so it gets nothing without a recent heartbeat. A healthy
-- worker claims again immediately.
if ARGV[8] == '1' and (tonumber(redis.call('HGET', worker_key(worker), 'beaten')) or 0) + lease <= now then
  most, free, idle_ms = 0, false, -1
end
local READ_AHEAD, PASSED_OVER = 32, 7
local lease_end, first_claim = digits(now + lease), claim_line(1, worker, lease, 0, 0, '')
-- `seen`: ids that this claim has dealt with. One may be listed twice, and its entry has been read for both places.
local freed, leases, seen, claims = {}, {}, {}, {}
local taken, cost, skipped, expired = 0, 0, 0, 0
-- What comes before the entries is known at the end.
local reply = { 0, 0, 0, now, '' }
local HEAD_FIELDS = #reply
-- Many entries have the same deadline or cost, and Lua reads a number slowly.
local numbers = {}
local function number(text)
  local value = numbers[text]
  if not value then
    value = tonumber(text)
    numbers[text] = value
  end
  return value
end

-- `in_flight` is the end of the id's current lease, if it has one; `claim` is the record of an earlier claim.
local function claim_entry(id, solo, entry, in_flight, claim)
  local deadline, lane, weight = string.match(entry or '', '^(%d+) (%l+) (%d+) %d+ ')
  -- Without an entry, the id was answered or cancelled. If it is in flight, it was listed twice and is already claimed; if
  -- it was claimed before, it waits in the solo list, and this is its second place.
  if not deadline or in_flight or seen[id] or claim and solo == 0 then
    if claim and not deadline then redis.call('HDEL', CLAIMS, id) end
    skipped = skipped + 1
    return
  end
  weight, seen[id] = number(weight), true
  if not claim then freed[lane] = (freed[lane] or 0) + weight end
  if number(deadline) <= now then
    expire(id)
    expired = expired + 1
  else
    local attempts, line = 1, first_claim
    if claim then
      local earlier_attempts, _, _, inspected, heartbeat, lost = claim_parts(claim)
      attempts = earlier_attempts + 1
      line = claim_line(attempts, worker, lease, inspected, heartbeat, lost)
    end
    local pair, at = 2 * taken, HEAD_FIELDS + 4 * taken
    leases[pair + 1], leases[pair + 2] = lease_end, id
    claims[pair + 1], claims[pair + 2] = id, line
    reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = id, entry, attempts, solo
    taken, cost = taken + 1, cost + weight
  end
end

local q_paused, bulk_paused = is_paused('interactive'), is_paused('bulk')
-- Lists that are known to be empty: nothing is added to them meanwhile.
local empty = {}
local from = {} -- lists of which an entry was claimed
local function claim_from(list, entries_limit, cost_limit)
  if list == BULK and bulk_paused or list ~= BULK and q_paused then return end
  while taken < entries_limit and cost < cost_limit and not empty[list] do
    local wanted = math.min(entries_limit - taken, READ_AHEAD)
    local ids = redis.call('LRANGE', list, '0', wanted - 1)
    if #ids == 0 then
      empty[list] = true
      return
    end
    local keys, read = {}, 0
    for n, id in ipairs(ids) do keys[n] = entry_key(id) end
    local found, in_flight = redis.call('MGET', unpack(keys)), redis.call('ZMSCORE', INFLIGHT, unpack(ids))
    local claimed = redis.call('HMGET', CLAIMS, unpack(ids))
    while read < #ids and cost < cost_limit do
      read = read + 1
      local before = taken
      claim_entry(ids[read], 0, found[read], in_flight[read], claimed[read])
      from[list] = from[list] or taken > before
    end
    redis.call('LTRIM', list, read, '-1')
    empty[list] = read == #ids and #ids < wanted
  end
end

even_when_full()
recover(100, max_attempts)
-- A worker that takes an entry from the solo list holds nothing else, so if it dies now, only that entry can be the cause.
-- A busy worker gets nothing at all, so that it is free the next time it claims. An entry on which this worker has failed is
-- left to the others while there are any.
local left_to_others = {}
while free and taken == 0 and not (q_paused and bulk_paused) do
  local id = redis.call('LPOP', SOLO)
  if not id then break end
  local entry = read_entry(id)
  if entry and redis.call('GET', failed_key(id)) == worker and others_live() then
    left_to_others[#left_to_others + 1] = id
  else
    claim_entry(id, 1, entry, redis.call('ZSCORE', INFLIGHT, id), read_claim(id))
    if taken > 0 then redis.call('SET', quarantined_key(worker), id, 'PX', CLAIM_MS) end
  end
end
call_in_chunks(left_to_others, 'RPUSH', SOLO)
if taken == 0 and (free or redis.call('LLEN', SOLO) == 0) then
  -- Bulk gets an eighth of a busy batch, so that it never starves. Either lane may use what the other leaves.
  local reserve = redis.call('LLEN', BULK) > 0 and 1 or 0
  empty[BULK] = reserve == 0
  local share, share_cost = most - reserve * math.floor(most / 8), most_cost - reserve * most_cost / 8
  local priority = redis.call('EXISTS', FIRST) == 1
  -- Where entries are large, those of one list fill the batch. One that a number of claims passed over leads the next.
  local waits = { [Q] = priority and not q_paused, [BULK] = reserve == 1 and bulk_cost >= 0 and not bulk_paused }
  local passed = {}
  local function field(list) return 'passed' .. string.sub(list, #P + 1) end
  for list, waiting in pairs(waits) do
    passed[list] = waiting and tonumber(redis.call('HGET', WAITING, field(list))) or 0
    if passed[list] >= PASSED_OVER then claim_from(list, most, math.min(cost + 1, most_cost)) end
  end
  if priority then
    -- The other entries have an eighth of such a batch, as bulk has, or those of a client that has few more texts than may
    -- go first would wait for as long as it sends others.
    claim_from(FIRST, share - math.floor(share / 8), share_cost * 7 / 8)
    -- Keep the batch small when it holds priority entries: a full batch would cost them the time they gained.
    if from[FIRST] then
      most_cost = math.min(most_cost, math.max(cost * 9 / 8, most_cost / 4))
      redis.call('HSET', WAITING, 'first_at', now)
    end
  elseif (tonumber(redis.call('HGET', WAITING, 'first_at')) or 0) + 1000 > now then
    most_cost = most_cost / 2 -- more priority entries are likely, and they would wait for this batch to end
  end
  claim_from(Q, share, math.min(share_cost, most_cost))
  -- Next to interactive entries, bulk gets its eighth and no more, because a larger batch would delay them.
  local share = not empty[Q] and redis.call('LLEN', Q) > 0 and most_cost or math.max(bulk_cost, cost * 9 / 8)
  if bulk_cost >= 0 then claim_from(BULK, most, taken == 0 and bulk_cost or math.min(share, most_cost)) end
  for list, waiting in pairs(waits) do
    -- A claim of a worker that may take no more counts as well: it comes once for each batch of what that worker holds.
    local times = (from[list] or empty[list]) and 0 or passed[list] + 1
    if waiting and times ~= passed[list] then redis.call('HSET', WAITING, field(list), times) end
  end
  if taken > 0 then claim_from(Q, most, most_cost) end
end
if taken > 0 then
  call_in_chunks(leases, 'ZADD', INFLIGHT)
  call_in_chunks(claims, 'HSET', CLAIMS)
  redis.call('PEXPIRE', CLAIMS, CLAIM_MS)
end
-- Tombstones of cancelled entries and second places of priority entries are expected, so they do not count as skipped.
local tombstones = skipped > 0 and tonumber(redis.call('HGET', WAITING, 'void')) or 0
if tombstones > 0 then
  redis.call('HINCRBY', WAITING, 'void', -math.min(tombstones, skipped))
  skipped = math.max(skipped - tombstones, 0)
end
for lane, weight in pairs(freed) do subtract_cost(lane, weight) end
local left = count_waiting() - #left_to_others
-- What this worker leaves behind is for another one.
if left > 0 then wake_workers(1) end
local help = ''
if ARGV[10] ~= '' then
  -- A shard whose entries have waited for much longer than these goes first, or it would starve without workers.
  local HELP, OLDER = P .. ':help', 100
  local _, _, _, enqueued = string.match(reply[HEAD_FIELDS + 2] or '', HEAD)
  -- A shard that has asked again since then has written another note. This claim may have waited for it.
  local number, since = string.match(ARGV[10], '^(%d+) (%S+)$')
  if number and tonumber(redis.call('ZSCORE', HELP, number)) == tonumber(since) then redis.call('ZREM', HELP, number) end
  local first = redis.call('ZRANGE', HELP, 0, 0, 'WITHSCORES')
  if first[1] and (not enqueued or tonumber(first[2]) + OLDER < tonumber(enqueued)) then help = first[1] .. ' ' .. first[2] end
end
if taken > 0 then
  if free then redis.call('ZREM', IDLE, worker) end
elseif idle_ms >= 0 and help == '' then
  -- A worker that leaves to help another shard cannot be woken here.
  set_idle(worker, idle_ms)
end
reply[1], reply[2], reply[3], reply[5] = left, skipped, expired, help
return reply
