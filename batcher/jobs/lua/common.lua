-- Each script of jobs begins with those of these definitions that it uses. KEYS[1] is the prefix P, whose hash tag puts all
-- keys into one slot.
-- Times are milliseconds of the Redis clock; callers send durations, never points in time.
local P = KEYS[1]
local ALL, ENDS, SIZES, BYTES, TOTALS = P .. ':jobs', P .. ':jobs:ends', P .. ':jobs:sizes', P .. ':jobs:bytes', P .. ':jobs:totals'
local STATUSES = { 'queued', 'running', 'finished', 'failed', 'cancelled' }
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function job_key(id) return P .. ':job:' .. id end
-- All keys of a job. Only its record is needed for it to exist.
local function keys_of(job) return { job, job .. ':input', job .. ':output', job .. ':models' } end
local function index_of(status) return P .. ':jobs:' .. status end
local function is_open(status) return status == 'queued' or status == 'running' end
-- A place is `microseconds of its creation:id`. All members have the same score, so they sort as strings, newest last.
local function id_of(place) return string.match(place, ':(.*)$') end
local function renew(ttl, keys)
  for _, key in ipairs(keys) do redis.call('PEXPIRE', key, ttl) end
end

-- The usage of a day (UTC), by its number since 1970.
local function usage_of(day) return string.format('%s:usage:%.0f', P, day) end
local function today() return math.floor(clock[1] / 86400) end

-- Adds to today's usage of the key with this name ('': of requests without one), which is kept for so many ms.
local function use(key, counts, keep_ms)
  local usage = usage_of(today())
  for name, by in pairs(counts) do
    redis.call('HINCRBY', usage, (key and key ~= '' and key or '-') .. ' ' .. name, by)
  end
  redis.call('PEXPIRE', usage, keep_ms)
end

-- Records how many bytes a job or an upload holds, for the client that submitted it; 0 removes the record.
local function account(member, client, bytes)
  local before, known = string.match(redis.call('HGET', SIZES, member) or '', '^(%d+) (.*)$')
  client = known or client
  if bytes > 0 then
    redis.call('HSET', SIZES, member, string.format('%.0f %s', bytes, client))
  else
    redis.call('HDEL', SIZES, member)
  end
  local more = bytes - (tonumber(before) or 0)
  for _, field in ipairs(more == 0 and {} or { 'all', 'client:' .. client }) do
    if redis.call('HINCRBY', BYTES, field, more) <= 0 then redis.call('HDEL', BYTES, field) end
  end
end

-- Whether `more` bytes fit into the budgets, given that the same upload already holds `held` bytes.
local function room(client, held, more, most, most_of_client)
  if held + more > most or held + more > most_of_client then return 'large' end
  local counted = redis.call('HMGET', BYTES, 'all', 'client:' .. client)
  if (tonumber(counted[2]) or 0) + more > most_of_client then return 'client_full' end
  if (tonumber(counted[1]) or 0) + more > most then return 'full' end
  return 'stored'
end

-- Why a job failed whose results have so many bytes a text on average, and for which there is no room.
local function no_room(verdict, bytes, most, most_of_client)
  local who, limit = 'your jobs have', most_of_client .. ' bytes (MILLRACE_MAX_CLIENT_JOBS_BYTES)'
  if verdict == 'full' or (verdict == 'large' and tonumber(most) < tonumber(most_of_client)) then
    who, limit = 'all jobs together have', most .. ' bytes (MILLRACE_MAX_JOBS_BYTES)'
  end
  local what = string.format('the results have about %.0f bytes a text, more than was reserved for them, ', bytes)
  if verdict == 'large' then return what .. 'and a job may hold ' .. limit .. ': submit fewer texts in a job' end
  return what .. 'and ' .. who .. ' reached their limit of ' .. limit ..
    ': delete jobs that have ended, or submit fewer texts in a job'
end

-- 'full' if `most` jobs wait, 'client_full' if half of these places are this client's.
local function crowded(client, most)
  local waiting, own, places = redis.call('ZRANGE', index_of('queued'), 0, -1), 0, math.ceil(most / 2)
  if #waiting >= most then return 'full' end
  if #waiting < places then return nil end
  for _, place in ipairs(waiting) do
    if string.match(redis.call('HGET', SIZES, place) or '', '^%d+ (.*)$') == client then own = own + 1 end
  end
  return own >= places and 'client_full' or nil
end

-- Keeps the lists for `ttl` at least, and without end while there is a job that has not ended.
local function keep_lists(ttl)
  local open = redis.call('ZCARD', index_of('queued')) + redis.call('ZCARD', index_of('running')) > 0
  local lists = { ALL, ENDS, SIZES, BYTES }
  for _, status in ipairs(STATUSES) do lists[#lists + 1] = index_of(status) end
  for _, key in ipairs(lists) do
    if open then
      redis.call('PERSIST', key)
    elseif redis.call('PTTL', key) < ttl then
      redis.call('PEXPIRE', key, ttl)
    end
  end
end

-- Sets the lifetime of an ended job, an upload or a file, and of its keys, to `ttl` from now.
local function set_lifetime(member, ttl, keys)
  redis.call('ZADD', ENDS, now + ttl, member)
  renew(ttl, keys)
  keep_lists(ttl)
end

-- Keeps a job, an upload or a file, and its keys, without end.
local function keep(member, keys)
  redis.call('ZREM', ENDS, member)
  for _, key in ipairs(keys) do redis.call('PERSIST', key) end
end

-- Notes that a batch uses its file (1), or no longer does (-1), and keeps its results for `ttl`. Once none does, the file is kept
-- to the end of its lifetime, and as long as any of these results, whose ids it has.
local function use_file(batch, by, ttl)
  local id = batch and batch ~= '' and cjson.decode(batch).file
  if not id then return end
  local file, member = P .. ':file:' .. id, 'file:' .. id
  if redis.call('EXISTS', file) == 0 then return end
  local batches = redis.call('HINCRBY', file, 'batches', by)
  local ends = math.max(tonumber(redis.call('HGET', file, 'ends_ms')) or 0, by < 0 and now + ttl or 0)
  redis.call('HSET', file, 'batches', math.max(batches, 0), 'ends_ms', ends)
  if batches > 0 then return keep(member, { file }) end
  set_lifetime(member, ends - now, { file })
end

-- Removes what lists have of a job, an upload or a file.
local function remove(place)
  redis.call('ZREM', ENDS, place)
  redis.call('ZREM', ALL, place)
  for _, status in ipairs(STATUSES) do redis.call('ZREM', index_of(status), place) end
  account(place, '', 0)
end

-- Removes expired jobs, uploads and files: their keys, their places in the lists, and their bytes in the accounts.
local function prune()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, 100)) do
    local upload, file = string.match(member, '^upload:(.*)$'), string.match(member, '^file:(.*)$')
    if upload or file then
      redis.call('UNLINK', upload and P .. ':job:' .. upload or P .. ':file:' .. file)
    else
      local job = job_key(id_of(member))
      if redis.call('HGET', job, 'place') == member then redis.call('UNLINK', unpack(keys_of(job))) end
    end
    remove(member)
  end
end

-- Removes a job whose record was lost: it was evicted, or is that of a later job by now.
local function drop(place)
  remove(place)
  local job = job_key(id_of(place))
  if redis.call('EXISTS', job) == 0 then redis.call('UNLINK', unpack(keys_of(job))) end
end

-- Moves a job to the list of its status.
local function list(place, from, to)
  if from then redis.call('ZREM', index_of(from), place) end
  redis.call('ZADD', index_of(to), 0, place)
end

local function count(field, by, ttl)
  redis.call('HINCRBY', TOTALS, field, by)
  redis.call('PEXPIRE', TOTALS, ttl)
end

-- Ends a job: removes its input unless it should be kept, makes its webhook due, and accounts for the bytes that remain.
local function finish(id, status, ttl, code, message)
  local job = job_key(id)
  local fields = redis.call('HMGET', job, 'status', 'place', 'input_bytes', 'output_bytes', 'keep_input', 'webhook', 'batch',
    'ttl_ms')
  local place, input = fields[2], tonumber(fields[3]) or 0
  local own_ttl = math.min(ttl, tonumber(fields[8]) or ttl) -- what jobs share is kept for as long as any of them
  -- A Redis that is full refuses writes that need memory, but not after another one in the same script.
  redis.call('HDEL', job, 'rate')
  redis.call('HSET', job, 'status', status, 'finished_ms', now, 'rate', 0)
  if code ~= '' then redis.call('HSET', job, 'error_code', code, 'error', message) end
  if fields[5] ~= '1' then
    redis.call('UNLINK', job .. ':input')
    redis.call('HSET', job, 'input_bytes', 0)
    input = 0
  end
  account(place, '', input + (tonumber(fields[4]) or 0))
  list(place, fields[1], status)
  count(status, 1, ttl)
  if fields[6] and fields[6] ~= '' then
    redis.call('ZADD', P .. ':webhooks', now, id)
    redis.call('HSET', job, 'next_delivery_ms', now)
    renew(ttl, { P .. ':webhooks' })
  end
  set_lifetime(place, own_ttl, keys_of(job))
  use_file(fields[7], -1, own_ttl)
end

-- Begins an attempt at a job, unless it has ended, or has had too many attempts without progress.
-- Returns {id, token, status | 'gone', attempt, chunks done, chunks, chunk_texts, ms that the job ran, queue of its model,
-- owner, trace, client, texts left}.
local function begin(id, token, ttl, most_stalled)
  local job = job_key(id)
  local fields = redis.call('HMGET', job, 'status', 'done', 'stalled_at', 'started_ms', 'chunks', 'chunk_texts', 'token',
    'place', 'ran_ms', 'queue', 'owner', 'trace', 'total')
  local status = fields[1]
  if not status then return { id, token, 'gone', 0, 0, 0, 0, 0, '', '', '', '', 0 } end
  if is_open(status) and fields[7] ~= token then
    if fields[2] ~= fields[3] then redis.call('HSET', job, 'stalled', 0, 'stalled_at', fields[2]) end
    redis.call('HINCRBY', job, 'attempt', 1)
    redis.call('HSET', job, 'token', token)
    if redis.call('HINCRBY', job, 'stalled', 1) > most_stalled then
      finish(id, 'failed', ttl, 'job_stalled', most_stalled .. ' consecutive attempts ended without progress')
      status = 'failed'
    else
      redis.call('HSET', job, 'status', 'running', 'started_ms', fields[4] or now, 'seen_ms', now)
      list(fields[8], status, 'running')
      status = 'running'
    end
  end
  local client = string.match(redis.call('HGET', SIZES, fields[8]) or '', '^%d+ (.*)$') or ''
  return { id, token, status, tonumber(redis.call('HGET', job, 'attempt')), redis.call('LLEN', job .. ':output'),
    tonumber(fields[5]), tonumber(fields[6]), tonumber(fields[9]) or 0, fields[10] or '', fields[11] or '',
    fields[12] or '', client, tonumber(fields[13]) - tonumber(fields[2]) }
end
