-- Each script of jobs begins with those of these definitions that it uses. KEYS[1] is the prefix P, whose hash tag puts all
-- keys into one slot.
-- Times are milliseconds of the Redis clock; callers send durations, never points in time.
local P = KEYS[1]
local ALL, ENDS, SIZES, BYTES, TOTALS = P .. ':jobs', P .. ':jobs:ends', P .. ':jobs:sizes', P .. ':jobs:bytes', P .. ':jobs:totals'
local STATUSES = { 'queued', 'running', 'finished', 'failed', 'cancelled' }
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Bytes reserved for the result of one text until its size is known.
local RESULT_BYTES = 100

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

-- Sets the lifetime of a job or an upload, and of its keys, to `ttl` from now.
local function set_lifetime(member, ttl, keys)
  redis.call('ZADD', ENDS, now + ttl, member)
  renew(ttl, keys)
  for _, key in ipairs({ ENDS, SIZES, BYTES }) do -- the short lifetime of an upload must not shorten theirs
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
  end
end

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

-- Moves a job to the list of its status. A list expires with the job that was written to it last.
local function list(place, from, to, ttl)
  if from then redis.call('ZREM', index_of(from), place) end
  redis.call('ZADD', index_of(to), 0, place)
  renew(ttl, { ALL, index_of(to) })
end

local function count(field, by, ttl)
  redis.call('HINCRBY', TOTALS, field, by)
  redis.call('PEXPIRE', TOTALS, ttl)
end

-- Ends a job: removes its input unless it should be kept, makes its webhook due, and accounts for the bytes that remain.
local function finish(id, status, ttl, code, message)
  local job = job_key(id)
  local fields = redis.call('HMGET', job, 'status', 'place', 'input_bytes', 'output_bytes', 'keep_input', 'webhook')
  local place, input = fields[2], tonumber(fields[3]) or 0
  redis.call('HSET', job, 'status', status, 'finished_ms', now, 'rate', 0)
  if code ~= '' then redis.call('HSET', job, 'error_code', code, 'error', message) end
  if fields[5] ~= '1' then
    redis.call('UNLINK', job .. ':input')
    redis.call('HSET', job, 'input_bytes', 0)
    input = 0
  end
  account(place, '', input + (tonumber(fields[4]) or 0))
  list(place, fields[1], status, ttl)
  count(status, 1, ttl)
  if fields[6] and fields[6] ~= '' then
    redis.call('ZADD', P .. ':webhooks', now, id)
    redis.call('HSET', job, 'next_delivery_ms', now)
    renew(ttl, { P .. ':webhooks' })
  end
  set_lifetime(place, ttl, keys_of(job))
end
