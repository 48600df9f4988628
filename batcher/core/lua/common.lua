-- Stands before every script. KEYS[1] is the prefix P, which carries the hash tag: all keys share a slot.
-- Times are milliseconds of the queue's clock (queue_clock); callers send durations, never moments.
local P = KEYS[1]
local BULK, Q, SOLO, INFLIGHT = P .. ':bulk', P .. ':q', P .. ':solo', P .. ':inflight'
local FIRST, CLAIMS = P .. ':first', P .. ':claims'
local WAITING, DEAD, MODEL, WORKERS = P .. ':waiting', P .. ':dead', P .. ':model', P .. ':workers'
local CLOCK, FULL = P .. ':clock', P .. ':full'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- What commands of a script share is written once: it takes Lua longer than it takes Redis to keep a string.
local function digits(number) return string.format('%.0f', number) end
local HINT_MS = 60000
-- Longer than any pass may be.
local ALONE_MS = 2 * 3600000
local WAITING_MS = 3600000

-- The queue's clock: that of Redis, but from one beat or sweep to the next it advances by STEP_MS at most, and never goes
-- back. A step of the server's clock, a promoted replica's other clock, or a time without writes therefore ends no lease.
-- P:clock holds what to add to the time of Redis, and the queue's time when it was written. `keeps` writes it anew.
local STEP_MS = 1200
local function queue_clock(keeps)
  local offset, seen = string.match(redis.call('MGET', CLOCK)[1] or '', '^(%-?%d+) (%d+)$')
  local time = now + (tonumber(offset) or 0)
  if seen then time = math.min(math.max(time, tonumber(seen)), seen + STEP_MS) end
  if keeps then redis.call('SET', CLOCK, string.format('%.0f %.0f', time - now, time)) end
  return time
end

-- A Redis whose memory is full refuses a script whose first write may take memory, and lets one finish whose first write
-- cannot. What answers texts, gives them back or drops them begins with such a write; what brings new ones does not.
local function even_when_full() redis.call('ZREM', INFLIGHT, '') end

local function entry_key(id) return P .. ':entry:' .. id end
local function result_key(id) return P .. ':res:' .. id end
-- What a worker has taken from the solo list last.
local function alone_key(worker) return P .. ':alone:' .. worker end
local function worker_key(worker) return P .. ':worker:' .. worker end
local function list_of(lane) if lane == 'bulk' then return BULK end return Q end

-- Wakes idle workers. They read the stream without consuming it, so a ring can be neither lost nor stolen.
local function ring()
  redis.call('XADD', P .. ':bell', 'MAXLEN', '1', '*', 'r', '1')
  redis.call('PEXPIRE', P .. ':bell', HINT_MS)
end

local function count(field, by)
  redis.call('HINCRBY', WAITING, field, by)
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

local function uncount(lane, cost)
  if lane then count(lane, -(tonumber(cost) or 0)) end
end

-- Tells an API process of results, each `id \n payload`; no payload holds a NUL.
local function hint(api, results)
  local list = P .. ':reply:' .. api
  redis.call('RPUSH', list, table.concat(results, '\0'))
  redis.call('PEXPIRE', list, HINT_MS)
end

-- Calls `command` with `keys` as its last arguments, a thousand at a time: Lua's stack has a limit. The answers' sum.
local function in_thousands(keys, command, ...)
  local sum = 0
  for i = 1, #keys, 1000 do
    local words = { command, ... }
    for n = i, math.min(i + 999, #keys) do words[#words + 1] = keys[n] end
    local answer = redis.call(unpack(words))
    sum = sum + (tonumber(answer) or 0)
  end
  return sum
end

-- The values of string keys, in order; false where there is none.
local function values_of(keys)
  local values = {}
  for i = 1, #keys, 1000 do
    for n, value in ipairs(redis.call('MGET', unpack(keys, i, math.min(i + 999, #keys)))) do
      values[i + n - 1] = value
    end
  end
  return values
end

-- An entry says what was asked, in a line `deadline lane cost enqueued trace`, the names of the API processes that wait
-- for it at its end, and then the text. One string is written and read in fewer commands than a hash.
local HEAD = '^(%d+) (%l+) (%d+) (%d+) '
local ASKED = HEAD .. '(%S+) ([^\n]*)\n(.*)$'

-- Goes through the names of who waits for an entry, if there is one.
local function waiters(entry)
  return string.gmatch(string.match(entry or '', '^%d+ %l+ %d+ %d+ %S+ ([^\n]*)\n') or '', '%S+')
end

-- False where there is none; what is no string is none either.
local function entry_of(id) return redis.call('MGET', entry_key(id))[1] end

-- Writes what `string.match(entry, ASKED)` has read. `...` says when the key ends, as SET takes it.
local function write_entry(key, deadline, lane, cost, enqueued, trace, names, text, ...)
  local head = string.format('%.0f %s %s %s %s ', deadline, lane, cost, enqueued, trace)
  redis.call('SET', key, head .. names .. '\n' .. text, ...)
end

-- What became of an entry that was claimed: how often, the last worker and its lease, an earlier look at it (the end of the
-- lease then, and the last beat), and whom it is blamed for: `worker beat;` for each.
local function claim_parts(claim)
  local attempts, worker, lease, looked, beat, blame = string.match(claim or '', '^(%d+) (%S+) (%d+) (%d+) (%d+) (.*)$')
  return tonumber(attempts) or 0, worker or '?', tonumber(lease) or 0, tonumber(looked) or 0, tonumber(beat) or 0, blame or ''
end

local function claim_of(id) return redis.call('HGET', CLAIMS, id) end

local function keep_claim(id, line)
  redis.call('HSET', CLAIMS, id, line)
  redis.call('PEXPIRE', CLAIMS, ALONE_MS)
end

local function claim_line(attempts, worker, lease, looked, beat, blame)
  return string.format('%.0f %s %.0f %.0f %.0f %s', attempts, worker, lease, looked, beat, blame)
end

-- An entry leaves its lane, and its cost with it: unless a claim has taken that out already.
local function uncount_unclaimed(id, lane, cost)
  if not claim_of(id) then uncount(lane, cost) end
end

local function forget(id)
  redis.call('HDEL', CLAIMS, id)
  return redis.call('DEL', entry_key(id))
end

local function fail(id, code, message)
  local payload = cjson.encode({ code = code, message = message }) .. '\n'
  for api in waiters(entry_of(id)) do hint(api, { id .. '\n' .. payload }) end
  forget(id)
  return payload
end

-- A deadline belongs to its callers: they are told, and nothing is remembered.
local function expire(id)
  fail(id, 'budget_exceeded', 'the budget ended before a worker took the text')
end

-- A text that ended too many workers by itself. Remembered while its result key lives, or it would end more.
local function bury(id, deaths, blame)
  local payload = fail(id, 'poison', 'this text ended ' .. deaths .. ' workers')
  redis.call('SET', result_key(id), payload, 'PX', HINT_MS)
  redis.call('LPUSH', DEAD, id .. ' poison attempts=' .. deaths .. ' ' .. blame)
  redis.call('LTRIM', DEAD, 0, 999)
end

-- Of the workers that lost an entry while they ran it alone: how many have ended, of how many nobody can tell yet, and all of
-- these by name.
-- A lease may end because beats came late, Redis was away or the reply to a claim was lost: a worker that has
-- beaten since lives, the text did it no harm, and what ends it later is another story. A worker has ended once its time in
-- P:workers is over, which no clock but the queue's decides.
local function deaths(blame)
  local gone, unsure, lost, kept = 0, 0, {}, ''
  for worker, last in string.gmatch(blame, '(%S+) (%d+);') do lost[worker] = last end -- each ends but once
  for worker, last in pairs(lost) do
    local lives = (tonumber(redis.call('ZSCORE', WORKERS, worker)) or 0) > now
    local beaten = lives and tonumber(redis.call('HGET', worker_key(worker), 'beaten')) or 0
    if beaten <= tonumber(last) then
      kept = kept .. worker .. ' ' .. last .. ';'
      if lives then unsure = unsure + 1 else gone = gone + 1 end
    end
  end
  return gone, unsure, kept
end

-- What becomes of an entry whose lease ended at `score`: true when it goes to the solo list.
-- The first time it is a suspect and nothing more. From then on it runs alone, and the end of a worker speaks against
-- the one text that this worker had in hand: not against others whose claims it never heard the answers of.
local function judge(id, score, max_attempts)
  local deadline = tonumber((string.match(entry_of(id) or '', HEAD)))
  if not deadline then
    forget(id)
    return false
  end
  local attempts, worker, lease, looked, beat, before = claim_parts(claim_of(id))
  -- Of the last beat that knew of the entry; one may have been under way as the claim was answered, the next was not.
  local last = looked == score and beat or score - lease * 3 / 4
  local blame = before
  if attempts > 1 and redis.call('GET', alone_key(worker)) == id then
    blame = blame .. string.format('%s %.0f;', worker, last)
  end
  local gone, unsure, kept = deaths(blame)
  if gone >= max_attempts then
    bury(id, gone, kept)
  elseif deadline <= now then
    expire(id)
  elseif gone + unsure >= max_attempts then
    -- It may be the text: nobody else gets it before it is known whether that worker lives.
    redis.call('ZADD', INFLIGHT, now + 100, id)
    keep_claim(id, claim_line(attempts, worker, lease, now + 100, last, before))
  else
    keep_claim(id, claim_line(attempts, worker, lease, looked, beat, kept))
    redis.call('RPUSH', SOLO, id)
    return true
  end
  return false
end

-- Entries whose lease ended go to the solo list: their worker died or hangs, and one of them may be why.
local function recover(limit, max_attempts)
  local ids = redis.call('ZRANGEBYSCORE', INFLIGHT, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  local recovered = 0
  for i = 1, #ids, 2 do
    redis.call('ZREM', INFLIGHT, ids[i])
    if judge(ids[i], tonumber(ids[i + 1]) or now, max_attempts) then recovered = recovered + 1 end
  end
  if recovered > 0 then ring() end
  return recovered
end
