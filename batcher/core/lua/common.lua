-- Each script begins with those of these definitions that it uses (see scripts.py). KEYS[1] is the prefix P; it carries the hash
-- tag, so all keys share one cluster slot.
-- Times are milliseconds of the queue's clock (queue_clock). Callers pass durations, never points in time.
local P = KEYS[1]
local BULK = P .. ':bulk'
local Q = P .. ':q'
local SOLO = P .. ':solo'
local INFLIGHT = P .. ':inflight'
local FIRST = P .. ':first'
local CLAIMS = P .. ':claims'
local WAITING = P .. ':waiting'
local DEAD = P .. ':dead'
local MODEL = P .. ':model'
local WORKERS = P .. ':workers'
local CLOCK = P .. ':clock'
local FULL = P .. ':full'
local IDLE = P .. ':idle'
local PAUSES = P .. ':pauses'
local SNAPSHOT = P .. ':snapshot'
local REFUSED = P .. ':refused'
local REFUSALS = P .. ':refusals'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Formats a number as an integer. Format a value that several commands share only once: formatting it takes Lua longer
-- than storing it takes Redis.
local function digits(number) return string.format('%.0f', number) end
-- Lifetimes are strings, since Redis formats a number much more slowly.
local HINT_MS = '60000'
-- Longer than any forward pass can take.
local CLAIM_MS = '7200000'
local WAITING_MS = '3600000'
local WORKERS_MS = '3600000'
-- Longer than any hold of a client, which is a field of it: SNAPSHOT_S of keys.py.
local SNAPSHOT_MS = '691200000'

-- The queue's clock is that of Redis, except that it never goes back and advances by at most STEP_MS from one heartbeat or
-- sweep to the next. A clock adjustment, the different clock of a promoted replica or a period without writes therefore
-- ends no lease. P:clock holds the offset from the time of Redis and the queue's time when it was written; `update`
-- writes it again, and `...` may keep its end, in SET's syntax: only a heartbeat makes a queue that is not served any more last.
local STEP_MS = 1200
-- The lanes that operators have paused, as `lane waiting end;` for each, and their last decisions (see pause.lua). They are read with the clock, so
-- that they cost no command.
local pauses = ''
local function queue_clock(update, ...)
  local read = redis.call('MGET', CLOCK, PAUSES)
  local offset, previous = string.match(read[1] or '', '^(%-?%d+) (%d+)$')
  pauses = read[2] or ''
  local time = now + (tonumber(offset) or 0)
  if previous then time = math.min(math.max(time, tonumber(previous)), previous + STEP_MS) end
  if update then redis.call('SET', CLOCK, string.format('%.0f %.0f', time - now, time), ...) end
  return time
end

-- When its memory is full, Redis rejects a script whose first write may use memory, but runs one to its end if the first
-- write cannot. Scripts that answer, return or remove entries therefore call this first; enqueue.lua does not.
local function even_when_full() redis.call('ZREM', INFLIGHT, '') end

local function entry_key(id) return P .. ':entry:' .. id end
local function result_key(id) return P .. ':res:' .. id end
-- The last entry that a worker took from the solo list.
local function quarantined_key(worker) return P .. ':alone:' .. worker end
local function worker_key(worker) return P .. ':worker:' .. worker end
-- The worker that failed on an entry, until the entry's budget ends.
local function failed_key(id) return P .. ':failed:' .. id end
local function lane_list(lane) if lane == 'bulk' then return BULK end return Q end

-- An idle worker waits for an item in its own list, and its next claim is already sent behind that wait. So a wake-up costs one
-- claim however many workers are idle, and Redis itself runs the claim as soon as the item is there.
local function wake_key(worker) return P .. ':wake:' .. worker end
local function wake(worker)
  redis.call('RPUSH', wake_key(worker), '1')
  redis.call('PEXPIRE', wake_key(worker), HINT_MS)
end

-- Wakes up to `count` idle workers. The worker that was busy last comes first, so that the others can be scaled down.
-- Returns how many it has woken.
local function wake_workers(count)
  local woken = 0
  while woken < count do
    local worker = redis.call('ZPOPMAX', IDLE)[1]
    if not worker then break end
    if (tonumber(redis.call('ZSCORE', WORKERS, worker)) or 0) > now then
      wake(worker)
      woken = woken + 1
    end
  end
  return woken
end

-- Notes that a worker is idle and for how long, so that it can be woken.
local function set_idle(worker, idle_ms)
  redis.call('ZADD', IDLE, digits(now - idle_ms), worker)
  redis.call('PEXPIRE', IDLE, HINT_MS) -- an idle worker claims again every few seconds
end

-- One worker is woken for each of these many tokens.
local WAKE_COST = 512
local function wake_for(cost) return wake_workers(math.ceil(cost / WAKE_COST)) end

-- Whether workers must not take anything from a lane. Call queue_clock first.
local function is_paused(lane)
  if pauses == '' then return false end
  local waiting, ends = string.match(pauses, lane .. ' (%l+) (%d+);')
  return waiting ~= nil and waiting ~= 'finish' and tonumber(ends) > now
end

-- The pauses that have not ended, as `lane waiting ms_left;` for each, and the last decisions, as `lane=number;`.
local function pauses_left()
  local left = {}
  for lane, waiting, ends in string.gmatch(pauses, '(%l+) (%l+) (%d+);') do
    if tonumber(ends) > now then left[#left + 1] = string.format('%s %s %.0f;', lane, waiting, ends - now) end
  end
  for decision in string.gmatch(pauses, '%l+=%d+;') do left[#left + 1] = decision end
  return table.concat(left)
end

-- How many entries wait in lanes that are not paused. Entries to run alone wait until both lanes are paused.
local function count_waiting()
  local q, bulk = is_paused('interactive'), is_paused('bulk')
  return (q and bulk and 0 or redis.call('LLEN', SOLO)) + (q and 0 or redis.call('LLEN', Q)) + (bulk and 0 or redis.call('LLEN', BULK))
end

local function add_waiting(field, by)
  redis.call('HINCRBY', WAITING, field, by)
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

local function subtract_cost(lane, cost)
  if lane then add_waiting(lane, -(tonumber(cost) or 0)) end
end

-- Calls `command` with `words` as its last arguments, after `key` if that is not nil, a thousand at a time because Lua's
-- stack is limited. Returns the sum of the replies.
local function call_in_chunks(words, command, key)
  local sum, count = 0, #words
  for i = 1, count, 1000 do
    local last, reply = math.min(i + 999, count), nil
    if key then reply = redis.call(command, key, unpack(words, i, last)) else reply = redis.call(command, unpack(words, i, last)) end
    sum = sum + (tonumber(reply) or 0)
  end
  return sum
end

-- Sends results to an API process: each item of `results` is one or more, each as `id \n payload`, separated by NUL, which no
-- payload contains.
local function hint(api, results)
  local list = P .. ':reply:' .. api
  call_in_chunks(results, 'RPUSH', list)
  redis.call('PEXPIRE', list, HINT_MS)
end

-- The values of string keys, in order; false for a key that does not exist.
local function values_of(keys)
  if #keys > 0 and #keys <= 1000 then return redis.call('MGET', unpack(keys)) end
  local values = {}
  for i = 1, #keys, 1000 do
    for n, value in ipairs(redis.call('MGET', unpack(keys, i, math.min(i + 999, #keys)))) do
      values[i + n - 1] = value
    end
  end
  return values
end

-- An entry is one string: a line `deadline lane cost enqueued trace names`, where `names` are the API processes that wait
-- for the result, then the text. It takes fewer commands to write and read than a hash.
local HEAD = '^(%d+) (%l+) (%d+) (%d+) '
local ASKED = HEAD .. '(%S+) ([^\n]*)\n(.*)$'

-- Iterates over the API processes that wait for an entry.
local function waiters(entry)
  return string.gmatch(string.match(entry or '', '^%d+ %l+ %d+ %d+ %S+ ([^\n]*)\n') or '', '%S+')
end

-- True if there is a live worker other than the caller.
local function others_live() return redis.call('ZCOUNT', WORKERS, '(' .. digits(now), '+inf') > 1 end

-- False if the entry does not exist. MGET, unlike GET, also returns nil for a key of another type.
local function read_entry(id) return redis.call('MGET', entry_key(id))[1] end

-- Writes the fields that `string.match(entry, ASKED)` returns. `...` sets the expiry, in SET's syntax.
local function write_entry(key, deadline, lane, cost, enqueued, trace, names, text, ...)
  local head = string.format('%.0f %s %s %s %s ', deadline, lane, cost, enqueued, trace)
  redis.call('SET', key, head .. names .. '\n' .. text, ...)
end

-- The record of a claimed entry: the number of attempts, the last worker and its lease, the last inspection (the end of the
-- lease then, and the last heartbeat), and the workers lost while they ran the entry alone, as `worker heartbeat;` for each.
local function claim_parts(claim)
  local attempts, worker, lease, inspected, heartbeat, lost =
    string.match(claim or '', '^(%d+) (%S+) (%d+) (%d+) (%d+) (.*)$')
  return tonumber(attempts) or 0, worker or '?', tonumber(lease) or 0, tonumber(inspected) or 0, tonumber(heartbeat) or 0,
    lost or ''
end

local function read_claim(id) return redis.call('HGET', CLAIMS, id) end

local function write_claim(id, line)
  redis.call('HSET', CLAIMS, id, line)
  redis.call('PEXPIRE', CLAIMS, CLAIM_MS)
end

local function claim_line(attempts, worker, lease, inspected, heartbeat, lost)
  return string.format('%.0f %s %.0f %.0f %.0f %s', attempts, worker, lease, inspected, heartbeat, lost)
end

-- Takes an entry's cost off its lane, unless the claim has already done so.
local function subtract_unclaimed(id, lane, cost)
  if not read_claim(id) then subtract_cost(lane, cost) end
end

local function delete_entry(id)
  redis.call('HDEL', CLAIMS, id)
  return redis.call('DEL', entry_key(id))
end

-- Records a refused text for the console: the newest MAX_REFUSED, for a week. Texts are not part of it.
local MAX_REFUSED = 10000
local REFUSED_MS = 7 * 86400000
local function record_refusal(id, code, attempts, workers, revision)
  local time_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local before = redis.call('HGET', REFUSALS, id)
  if before then redis.call('ZREM', REFUSED, cjson.decode(before).place) end
  local place = string.format('%013.0f:%s', time_ms, id)
  redis.call('HSET', REFUSALS, id, cjson.encode({
    id = id, place = place, code = code, attempts = attempts, workers = workers, revision = revision or '',
    lane = string.match(read_entry(id) or '', '^%d+ (%l+) ') or '',
  }))
  redis.call('ZADD', REFUSED, 0, place)
  local surplus = redis.call('ZCARD', REFUSED) - MAX_REFUSED
  for n, old in ipairs(redis.call('ZRANGE', REFUSED, 0, 9)) do
    if n > surplus and tonumber(string.sub(old, 1, 13)) > time_ms - REFUSED_MS then break end
    local id = string.sub(old, 15)
    redis.call('ZREM', REFUSED, old)
    redis.call('HDEL', REFUSALS, id)
    redis.call('DEL', REFUSED .. ':' .. id)
  end
  redis.call('PEXPIRE', REFUSED, REFUSED_MS)
  redis.call('PEXPIRE', REFUSALS, REFUSED_MS)
end

local function fail(id, code, message)
  local payload = cjson.encode({ code = code, message = message }) .. '\n'
  for api in waiters(read_entry(id)) do hint(api, { id .. '\n' .. payload }) end
  delete_entry(id)
  return payload
end

-- No result is stored: the deadline concerns only the callers that set it, and a later request may have a longer one.
local function expire(id)
  fail(id, 'budget_exceeded', 'the budget ended before a worker claimed the text')
end

-- Gives up on an entry that killed too many workers. Storing the failure keeps later requests from running it again.
local function dead_letter(id, deaths, lost)
  local workers = {}
  for worker in string.gmatch(lost, '(%S+) %d+;') do workers[#workers + 1] = worker end
  record_refusal(id, 'poison', deaths, table.concat(workers, ' '), redis.call('HGET', MODEL, 'revision'))
  local payload = fail(id, 'poison', deaths .. ' workers died while running this text alone')
  redis.call('SET', result_key(id), payload, 'PX', HINT_MS)
  redis.call('LPUSH', DEAD, id .. ' poison attempts=' .. deaths .. ' ' .. lost)
  redis.call('LTRIM', DEAD, 0, 999)
end

-- Checks the workers whose lease ended while they ran an entry alone. Returns how many have died, how many may still
-- live, and both as a list.
-- A lease can also end because heartbeats were late, Redis was unavailable or the reply to a claim was lost. A worker with
-- a later heartbeat ran on without this entry, so this entry did not kill it, whatever happened to it since, and the worker is
-- dropped from the list. A worker has died once its time in P:workers is over; only the queue's clock decides that.
local function check_lost(lost)
  local dead, unsure, last_heartbeats, kept = 0, 0, {}, ''
  -- A worker can die only once, so one heartbeat for each is enough.
  for worker, heartbeat in string.gmatch(lost, '(%S+) (%d+);') do last_heartbeats[worker] = heartbeat end
  for worker, heartbeat in pairs(last_heartbeats) do
    local alive = (tonumber(redis.call('ZSCORE', WORKERS, worker)) or 0) > now
    local last_heartbeat = tonumber(redis.call('HGET', worker_key(worker), 'beaten')) or 0
    if last_heartbeat <= tonumber(heartbeat) then
      kept = kept .. worker .. ' ' .. heartbeat .. ';'
      if alive then unsure = unsure + 1 else dead = dead + 1 end
    end
  end
  return dead, unsure, kept
end

-- Decides what happens to an entry whose lease ended at `score`. Returns true if it goes to the solo list.
-- The first lost lease only makes the entry a suspect, because the worker ran it together with others. From then on it runs
-- alone, and losing the worker counts against the one entry that this worker is known to have received, not against others
-- whose claim reply may never have arrived.
local function recover_or_dead_letter(id, score, max_attempts)
  local deadline = tonumber((string.match(read_entry(id) or '', HEAD)))
  if not deadline then
    delete_entry(id)
    return false
  end
  local attempts, worker, lease, inspected, heartbeat, earlier = claim_parts(read_claim(id))
  -- The last heartbeat that could include the entry. One heartbeat may already be under way when the claim is answered and
  -- not include it, but the next one does.
  local last = inspected == score and heartbeat or score - lease * 3 / 4
  local lost = earlier
  if attempts > 1 and redis.call('GET', quarantined_key(worker)) == id then
    lost = lost .. string.format('%s %.0f;', worker, last)
  end
  local dead, unsure, kept = check_lost(lost)
  if dead >= max_attempts then
    dead_letter(id, dead, kept)
  elseif deadline <= now then
    expire(id)
  elseif dead + unsure >= max_attempts then
    -- The entry may be poison: hold it back until it is known whether that worker still lives.
    redis.call('ZADD', INFLIGHT, now + 100, id)
    write_claim(id, claim_line(attempts, worker, lease, now + 100, last, earlier))
  else
    write_claim(id, claim_line(attempts, worker, lease, inspected, heartbeat, kept))
    redis.call('RPUSH', SOLO, id)
    return true
  end
  return false
end

-- Moves entries whose lease has ended to the solo list: their worker died or hangs, and one of them may be the cause.
local function recover(limit, max_attempts)
  local ids = redis.call('ZRANGEBYSCORE', INFLIGHT, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  local recovered = 0
  for i = 1, #ids, 2 do
    redis.call('ZREM', INFLIGHT, ids[i])
    if recover_or_dead_letter(ids[i], tonumber(ids[i + 1]) or now, max_attempts) then recovered = recovered + 1 end
  end
  wake_workers(recovered)
  return recovered
end
