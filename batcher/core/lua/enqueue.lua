-- Requests results: each id is answered, joined to an existing entry, or queued. If the lane is full, none of them is.
-- ARGV: api, lane, budget_ms, keep_ms, cap (waiting cost of the lane), trace (or -), first (1: ahead of others in its lane),
--       cache key prefix (empty if the cache is elsewhere), the only revision whose stored results may answer (empty: all that
--       are served), then id, text, cost for each.
-- Returns {'full', waiting cost} or, for each id, {its cached result} | its result | 'joined' | 'queued'; at the end, if any
-- was queued, how many workers are still idle, or -1 if there was none to wake.
local api, lane, cap, trace, cache_prefix, only = ARGV[1], ARGV[2], tonumber(ARGV[5]), ARGV[6], ARGV[8], ARGV[9]
local first = ARGV[7] == '1' and lane == 'interactive'
now = queue_clock()
local deadline, keep = now + tonumber(ARGV[3]), tonumber(ARGV[4])
local states, keys, cached, results, count, fresh_cost = {}, {}, {}, {}, 0, 0
for i = 10, #ARGV, 3 do
  local id = ARGV[i]
  count = count + 1
  keys[count], results[count] = entry_key(id), result_key(id)
  if cache_prefix ~= '' then cached[count] = cache_prefix .. id end
end
cached, results = values_of(cached), values_of(results)
local entries = call_in_chunks(keys, 'EXISTS') > 0 and values_of(keys) or {}

-- True if the revision is the current one or a live worker runs it.
local serving = {}
local function is_serving(revision)
  if serving[revision] == nil then
    serving[revision] = redis.call('HGET', MODEL, 'revision') == revision
    local live = serving[revision] and {} or redis.call('ZRANGEBYSCORE', WORKERS, '(' .. digits(now), '+inf')
    for _, worker in ipairs(live) do
      if redis.call('HGET', worker_key(worker), 'revision') == revision then serving[revision] = true end
    end
  end
  return serving[revision]
end

-- True if a result stored for earlier callers may answer a new request. A failure (which has no second line) may not,
-- except poison; neither may a prediction of a model that no longer serves.
local function is_reusable(result)
  if string.sub(result, -1) == '\n' then return string.find(result, '"poison"', 1, true) end
  local revision = string.match(result, '^[^\n%[]*%["([^"]*)", "[^\n]*"%]\n')
  if only ~= '' and revision ~= only then return false end
  return revision and is_serving(revision)
end

for n = 1, count do
  local known, result = cached[n], results[n]
  if result and not is_reusable(result) then result = false end
  if known then
    states[n] = { known }
  elseif result then
    states[n] = result
  elseif entries[n] and string.find(entries[n], ASKED) then
    states[n] = 'joined'
  else
    states[n] = 'queued'
    fresh_cost = fresh_cost + ARGV[9 + 3 * n]
  end
end

if fresh_cost > 0 then
  local waiting = redis.call('LLEN', lane_list(lane)) > 0 and tonumber(redis.call('HGET', WAITING, lane)) or 0
  if waiting > 0 and waiting + fresh_cost > cap then return { 'full', waiting } end
  -- This is the first write, so a Redis whose memory is full refuses new entries.
  redis.call('HSET', WAITING, lane, waiting + fresh_cost)
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

local pushed, ahead, queued = {}, {}, 0
-- The parts that all new entries of this call share.
local head, tail = string.format('%.0f %s ', deadline, lane), string.format(' %.0f %s %s\n', now, trace, api)
local life = digits(ARGV[3] + keep)
for n, state in ipairs(states) do
  local i = 7 + 3 * n
  local id, key = ARGV[i], keys[n]
  if state == 'queued' then
    redis.call('SET', key, head .. ARGV[i + 2] .. tail .. ARGV[i + 1], 'PX', life)
    -- A result that may not be reused must not answer this request either, if its entry is lost.
    if results[n] then redis.call('DEL', result_key(id)) end
    queued = queued + 1
    pushed[queued] = id
  elseif state == 'joined' then
    local old_deadline, old_lane, cost, enqueued, old_trace, names, text = string.match(entries[n], ASKED)
    local waits = not read_claim(id)
    if first and waits then ahead[#ahead + 1] = id end
    if not string.find(' ' .. names .. ' ', ' ' .. api .. ' ', 1, true) then names = names .. ' ' .. api end
    -- An interactive request joins an entry that a job has queued: it moves to the interactive lane, and its old place is
    -- skipped later.
    if lane == 'interactive' and old_lane == 'bulk' and waits then
      old_lane = lane
      subtract_cost('bulk', cost)
      add_waiting(lane, cost)
      queued = queued + 1
      pushed[queued] = id
    end
    local latest = math.max(tonumber(old_deadline), deadline)
    write_entry(key, latest, old_lane, cost, enqueued, old_trace, names, text, 'PX', digits(latest - now + keep))
  end
end
-- If others wait, priority entries get two places: one ahead of the lane, and one in it, which autoscaling counts.
if first and redis.call('LLEN', Q) > 0 then
  for _, id in ipairs(pushed) do ahead[#ahead + 1] = id end
end
if #ahead > 0 then
  call_in_chunks(ahead, 'RPUSH', FIRST)
  redis.call('PEXPIRE', FIRST, 120000)
  add_waiting('void', #ahead)
end
if queued > 0 then
  call_in_chunks(pushed, 'RPUSH', lane_list(lane))
  if is_paused(lane) then
    states[#states + 1] = 0
  else
    states[#states + 1] = wake_for(math.max(fresh_cost, 1)) > 0 and redis.call('ZCARD', IDLE) or -1
  end
end
return states
