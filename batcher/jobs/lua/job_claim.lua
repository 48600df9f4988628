-- Begins attempts at jobs that wait, or whose process has not been heard of: first those of the clients with the fewest
-- running jobs, of these first the ones that have waited longest for another turn or have had none, and of these the smallest.
-- ARGV: token of the attempts, ttl_ms, most_stalled, silent_ms and lost_ms (how long nothing was heard of jobs of other
--       processes, and of any), texts of a small job, most small jobs and most large jobs to begin, then the queues of models
--       whose jobs cannot go on.
-- Returns {{size, client, how many jobs of it run} of the next small and large job that is left, if any}, then for each attempt
-- what `begin` does}.
local ttl, stalled, silent, lost, limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local free = { small = tonumber(ARGV[7]), large = tonumber(ARGV[8]) }
local blocked, running, again, waiting = {}, {}, {}, { small = {}, large = {} }
for i = 9, #ARGV do blocked[ARGV[i]] = true end

-- Whether an attempt is heard of. One without progress, as many before it, has longer, and so have those of this process.
local function lives(seen_ms, token, attempts)
  local limit = string.sub(token, 1, 16) == string.sub(ARGV[1], 1, 16) and lost or math.min(silent * 2 ^ (attempts - 1), lost)
  -- A clock of Redis that was set back must not make a job look as if it ran.
  return math.abs(now - seen_ms) < limit
end

for _, status in ipairs({ 'queued', 'running' }) do
  for _, place in ipairs(redis.call('ZRANGE', index_of(status), 0, -1)) do
    local fields = redis.call('HMGET', job_key(id_of(place)), 'place', 'queue', 'total', 'done', 'seen_ms', 'waits_since_ms',
      'token', 'stalled', 'stalled_at')
    local client = string.match(redis.call('HGET', SIZES, place) or '', '^%d+ (.*)$') or ''
    local attempts = fields[4] == fields[9] and tonumber(fields[8]) or 1
    if fields[1] ~= place then
      -- `job_open` removes it.
    elseif fields[7] == ARGV[1] then -- by this call, which is sent again
      again[#again + 1] = id_of(place)
    elseif status == 'running' and lives(tonumber(fields[5]) or 0, fields[7] or '', attempts) then
      running[client] = (running[client] or 0) + 1
    elseif not blocked[fields[2] or ''] then
      local left = tonumber(fields[3]) - tonumber(fields[4])
      local since = tonumber(fields[6]) or 0
      table.insert(waiting[left > limit and 'large' or 'small'], { place = place, client = client, left = left, since = since })
    end
  end
end

local function is_before(one, other)
  local runs, others = running[one.client] or 0, running[other.client] or 0
  if runs ~= others then return runs < others end
  if one.since ~= other.since then return one.since < other.since end
  if one.left ~= other.left then return one.left < other.left end
  return one.place < other.place
end

local function take(jobs)
  local best
  for at, job in ipairs(jobs) do
    if not best or is_before(job, jobs[best]) then best = at end
  end
  return best and table.remove(jobs, best)
end

local reply = { {} }
for _, id in ipairs(again) do reply[#reply + 1] = begin(id, ARGV[1], ttl, stalled) end
if #again > 0 then return reply end
for _, size in ipairs({ 'small', 'large' }) do
  while free[size] > 0 and #waiting[size] > 0 do
    local job = take(waiting[size])
    running[job.client] = (running[job.client] or 0) + 1
    free[size] = free[size] - 1
    reply[#reply + 1] = begin(id_of(job.place), ARGV[1], ttl, stalled)
  end
  local left = take(waiting[size])
  if left then table.insert(reply[1], { size, left.client, running[left.client] or 0 }) end
end
return reply
