-- Requests results for one request after another: each id is answered, joined to an existing entry, or queued. If the lane is full,
-- none of the ids of a request is. No id may occur in two requests.
-- ARGV: api, keep_ms, the revision of the current model of all shards (empty: not known), then for each request: how many ids, lane,
--       budget_ms, cap (waiting cost of the lane), trace (or -), first (1: ahead of others in its lane), cache key prefix (empty if the
--       cache is elsewhere), the only revision whose stored results may answer (empty: all that are served), then id, text, cost for each.
-- Returns for each request how much waits if the lane is full, else for each id {its cached result} | its result | 'joined' | 'queued';
-- at the end how many workers are still idle (-1: there was none to wake), or 0 if nothing was queued that a worker may take.
local api, keep, published = ARGV[1], tonumber(ARGV[2]), ARGV[3]
now = queue_clock()
-- `keys` has the keys of the result and of the entry of each text in turn, and `found` what they hold.
local requests, keys, cached, looks = {}, {}, {}, false
local FIELDS, i, count = 8, 4, 0
while ARGV[i] do
  local ends, prefix = i + FIELDS + 3 * ARGV[i], ARGV[i + 6]
  requests[#requests + 1] = i
  looks = looks or prefix ~= ''
  for at = i + FIELDS, ends - 1, 3 do
    local id = ARGV[at]
    count = count + 1
    keys[2 * count - 1], keys[2 * count] = result_key(id), entry_key(id)
    cached[count] = prefix ~= '' and prefix .. id or keys[2 * count]
  end
  i = ends
end
cached = looks and values_of(cached) or {}
local found = values_of(keys)

-- True if the revision is the current one or a live worker runs it. A shard where no worker of the current model has worked
-- since may still have the record of a former one.
local serving = {}
local function is_serving(revision)
  if serving[revision] == nil then
    local current = published == '' or published == revision
    serving[revision] = current and redis.call('HGET', MODEL, 'revision') == revision
    local live = serving[revision] and {} or redis.call('ZRANGEBYSCORE', WORKERS, '(' .. digits(now), '+inf')
    for _, worker in ipairs(live) do
      if redis.call('HGET', worker_key(worker), 'revision') == revision then serving[revision] = true end
    end
  end
  return serving[revision]
end

-- True if a result stored for earlier callers may answer a new request. A failure (which has no second line) may not,
-- except poison; neither may a prediction of a model that no longer serves.
local function is_reusable(result, only)
  if string.sub(result, -1) == '\n' then return string.find(result, '"poison"', 1, true) end
  local revision = string.match(result, '^[^\n%[]*%["([^"]*)", "[^\n]*"%]\n')
  if only ~= '' and revision ~= only then return false end
  return revision and is_serving(revision)
end

-- How many entries each lane has, what waits in it, and what this call adds.
local lengths, waiting, added = {}, {}, {}
local reply, n = {}, 0
for r, at in ipairs(requests) do
  local lane, looks, only = ARGV[at + 1], ARGV[at + 6] ~= '', ARGV[at + 7]
  local states, fresh_cost = {}, 0
  for k = 1, ARGV[at] do
    n = n + 1
    local known, result, entry = looks and cached[n], found[2 * n - 1], found[2 * n]
    if known then
      states[k] = { known }
    elseif result and is_reusable(result, only) then
      states[k] = result
    elseif entry and string.find(entry, ASKED) then
      states[k] = 'joined'
    else
      states[k] = 'queued'
      fresh_cost = fresh_cost + ARGV[at + FIELDS + 3 * k - 1]
    end
  end
  reply[r] = states
  if fresh_cost > 0 then
    if not waiting[lane] then
      lengths[lane] = redis.call('LLEN', lane_list(lane))
      waiting[lane] = lengths[lane] > 0 and tonumber(redis.call('HGET', WAITING, lane)) or 0
    end
    local before = waiting[lane]
    if before > 0 and before + fresh_cost > tonumber(ARGV[at + 3]) then
      reply[r] = before
    else
      waiting[lane], added[lane] = before + fresh_cost, (added[lane] or 0) + fresh_cost
    end
  end
end
-- Whether entries without priority wait. If so, priority entries get two places: one ahead of the lane, and one in it, which
-- autoscaling counts. As long as all that waits has priority, one place is enough, and the oldest comes first.
local others_wait = lengths.interactive ~= 0 and redis.call('HGET', WAITING, 'plain') ~= '0'
-- This is the first write, so a Redis whose memory is full refuses new entries.
for lane in pairs(added) do
  redis.call('HSET', WAITING, lane, waiting[lane])
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

local pushed, ahead = { interactive = {}, bulk = {} }, {}
-- The parts that all new entries of a request share, and often those of the next one.
local shared, head, tail, life = nil, nil, nil, nil
n = 0
for r, at in ipairs(requests) do
  local lane, budget, trace, states = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4], reply[r]
  local first, places = ARGV[at + 5] == '1' and lane == 'interactive', pushed[lane]
  local deadline, before = now + budget, #places
  if shared ~= lane .. budget .. trace then
    shared = lane .. budget .. trace
    head, tail = string.format('%.0f %s ', deadline, lane), string.format(' %.0f %s %s\n', now, trace, api)
    life = digits(budget + keep)
  end
  for k = 1, type(states) == 'table' and ARGV[at] or 0 do
    local state, i, key = states[k], at + FIELDS + 3 * k - 3, keys[2 * n + 2 * k]
    local id = ARGV[i]
    if state == 'queued' then
      redis.call('SET', key, head .. ARGV[i + 2] .. tail .. ARGV[i + 1], 'PX', life)
      -- A result that may not be reused must not answer this request either, if its entry is lost.
      if found[2 * n + 2 * k - 1] then redis.call('DEL', result_key(id)) end
      places[#places + 1] = id
    elseif state == 'joined' then
      local old_deadline, old_lane, cost, enqueued, old_trace, names, text = string.match(found[2 * n + 2 * k], ASKED)
      local waits = not read_claim(id)
      if first and waits and others_wait then ahead[#ahead + 1] = id end
      if not string.find(' ' .. names .. ' ', ' ' .. api .. ' ', 1, true) then names = names .. ' ' .. api end
      -- An interactive request joins an entry that a job has queued: it moves to the interactive lane, and its old place is
      -- skipped later.
      if lane == 'interactive' and old_lane == 'bulk' and waits then
        old_lane = lane
        subtract_cost('bulk', cost)
        add_waiting(lane, cost)
        added[lane] = added[lane] or 1
        places[#places + 1] = id
      end
      local latest = math.max(tonumber(old_deadline), deadline)
      write_entry(key, latest, old_lane, cost, enqueued, old_trace, names, text, 'PX', digits(latest - now + keep))
    end
  end
  n = n + ARGV[at]
  if first and others_wait then
    for k = before + 1, #places do ahead[#ahead + 1] = places[k] end
  end
  if lane == 'interactive' and not first and #places > before and not others_wait then
    others_wait = true
    -- All that waits so far has priority.
    ahead = redis.call('LRANGE', Q, '0', '-1')
    for k = 1, before do ahead[#ahead + 1] = places[k] end
  end
end
if #pushed.interactive > 0 then redis.call('HSET', WAITING, 'plain', others_wait and 1 or 0) end
if #ahead > 0 then
  call_in_chunks(ahead, 'RPUSH', FIRST)
  redis.call('PEXPIRE', FIRST, 120000)
  add_waiting('void', #ahead)
end
local cost = 0
for lane, places in pairs(pushed) do
  if #places > 0 then
    call_in_chunks(places, 'RPUSH', lane_list(lane))
    if not is_paused(lane) then cost = cost + added[lane] end
  end
end
reply[#reply + 1] = cost == 0 and 0 or wake_for(cost) > 0 and redis.call('ZCARD', IDLE) or -1
return reply
