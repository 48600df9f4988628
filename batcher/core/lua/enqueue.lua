-- Asks for results: each id is answered, joined to a run under way, or queued. All or nothing on overload.
-- ARGV: api, lane, budget_ms, keep_ms, cap (waiting cost of the lane), trace (or -), first (1: before others of the lane),
--       what long-lived results to look for start with (nothing: they are elsewhere), then id, text, cost for each.
-- Returns {'full', waiting cost} or, for each id, {its long-lived result} | its result | 'joined' | 'queued'.
local api, lane, cap, trace, remembered = ARGV[1], ARGV[2], tonumber(ARGV[5]), ARGV[6], ARGV[8]
local first = ARGV[7] == '1' and lane == 'interactive'
now = queue_clock()
local deadline, keep = now + tonumber(ARGV[3]), tonumber(ARGV[4])
local states, keys, long_lived, results, fresh_cost = {}, {}, {}, {}, 0
for i = 9, #ARGV, 3 do
  keys[#keys + 1] = entry_key(ARGV[i])
  results[#keys] = result_key(ARGV[i])
  if remembered ~= '' then long_lived[#keys] = remembered .. ARGV[i] end
end
long_lived, results = values_of(long_lived), values_of(results)
local entries = in_thousands(keys, 'EXISTS') > 0 and values_of(keys) or {}

-- Whether a model still answers: it is the current one, or a living worker runs it.
local answers = {}
local function answers_still(revision)
  if answers[revision] == nil then
    answers[revision] = redis.call('HGET', MODEL, 'revision') == revision
    local living = answers[revision] and {} or redis.call('ZRANGEBYSCORE', WORKERS, '(' .. digits(now), '+inf')
    for _, worker in ipairs(living) do
      if redis.call('HGET', worker_key(worker), 'revision') == revision then answers[revision] = true end
    end
  end
  return answers[revision]
end

-- Whether a result that was kept for earlier callers answers a new one. A failure (no second line) does not, save poison;
-- nor does a prediction of a model that has left.
local function answers_anew(result)
  if string.sub(result, -1) == '\n' then return string.find(result, '"poison"', 1, true) end
  local revision = string.match(result, '^[^\n%[]*%["([^"]*)", "[^\n]*"%]\n')
  return revision and answers_still(revision)
end

for n in ipairs(keys) do
  local i = 6 + 3 * n
  local known, result = long_lived[n], results[n]
  if result and not answers_anew(result) then result = false end
  if known then
    states[n] = { known }
  elseif result then
    states[n] = result
  elseif entries[n] and string.find(entries[n], ASKED) then
    states[n] = 'joined'
  else
    states[n] = 'queued'
    fresh_cost = fresh_cost + tonumber(ARGV[i + 2])
  end
end

if fresh_cost > 0 then
  local waiting = redis.call('LLEN', list_of(lane)) > 0 and tonumber(redis.call('HGET', WAITING, lane)) or 0
  if waiting > 0 and waiting + fresh_cost > cap then return { 'full', waiting } end
  -- The first write: a Redis whose memory is full takes nothing new.
  redis.call('HSET', WAITING, lane, waiting + fresh_cost)
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

local pushed, ahead = {}, {}
-- What all new entries of this call have in common.
local head, tail = string.format('%.0f %s ', deadline, lane), string.format(' %.0f %s %s\n', now, trace, api)
local life = digits(ARGV[3] + keep)
for n, state in ipairs(states) do
  local i = 6 + 3 * n
  local id, key = ARGV[i], keys[n]
  if state == 'queued' then
    redis.call('SET', key, head .. ARGV[i + 2] .. tail .. ARGV[i + 1], 'PX', life)
    pushed[#pushed + 1] = id
  elseif state == 'joined' then
    local until_then, was, cost, enqueued, traced, names, text = string.match(entries[n], ASKED)
    local waits = not claim_of(id)
    if first and waits then ahead[#ahead + 1] = id end
    if not string.find(' ' .. names .. ' ', ' ' .. api .. ' ', 1, true) then names = names .. ' ' .. api end
    -- Somebody waits on a socket for what a job has queued: it changes lanes, its old place is skipped later.
    if lane == 'interactive' and was == 'bulk' and waits then
      was = lane
      uncount('bulk', cost)
      count(lane, cost)
      pushed[#pushed + 1] = id
    end
    local latest = math.max(tonumber(until_then), deadline)
    write_entry(key, latest, was, cost, enqueued, traced, names, text, 'PX', digits(latest - now + keep))
  end
end
-- Where others wait, their places are doubled: one in front of them, and the one that autoscaling counts.
if first and redis.call('LLEN', Q) > 0 then
  for _, id in ipairs(pushed) do ahead[#ahead + 1] = id end
end
if #ahead > 0 then
  in_thousands(ahead, 'RPUSH', FIRST)
  redis.call('PEXPIRE', FIRST, 120000)
  count('void', #ahead)
end
if #pushed > 0 then
  in_thousands(pushed, 'RPUSH', list_of(lane))
  ring()
end
return states
