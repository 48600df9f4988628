-- Stands before every script. KEYS[1] is the prefix P, which carries the hash tag: all keys share a slot.
-- Times are milliseconds of the Redis clock; callers send durations, never moments.
local P = KEYS[1]
local BULK, Q, SOLO, INFLIGHT = P .. ':bulk', P .. ':q', P .. ':solo', P .. ':inflight'
local FIRST = P .. ':first'
local WAITING, DEAD, MODEL, WORKERS = P .. ':waiting', P .. ':dead', P .. ':model', P .. ':workers'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local HINT_MS = 60000
-- Longer than any pass may be.
local ALONE_MS = 2 * 3600000

local function entry_key(id) return P .. ':entry:' .. id end
local function result_key(id) return P .. ':res:' .. id end
-- What a worker has taken from the solo list last.
local function alone_key(worker) return P .. ':alone:' .. worker end
local function list_of(lane) if lane == 'bulk' then return BULK end return Q end

-- Wakes idle workers. They read the stream without consuming it, so a ring can be neither lost nor stolen.
local function ring()
  redis.call('XADD', P .. ':bell', 'MAXLEN', '1', '*', 'r', '1')
  redis.call('PEXPIRE', P .. ':bell', HINT_MS)
end

local function uncount(lane, cost)
  if lane then redis.call('HINCRBY', WAITING, lane, -(tonumber(cost) or 0)) end
end

-- The names of the API processes that wait for an entry; its field `waiters` has a space after each.
local function waiters(key)
  local names = {}
  for name in string.gmatch(redis.call('HGET', key, 'waiters') or '', '%S+') do names[#names + 1] = name end
  return names
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

local function fail(id, key, code, message)
  local payload = cjson.encode({ code = code, message = message }) .. '\n'
  for _, api in ipairs(waiters(key)) do hint(api, { id .. '\n' .. payload }) end
  redis.call('DEL', key)
  return payload
end

-- A deadline belongs to its callers: they are told, and nothing is remembered.
local function expire(id, key)
  fail(id, key, 'budget_exceeded', 'the budget ended before a worker took the text')
end

-- A text that ended too many workers by itself. Remembered while its result key lives, or it would end more.
local function bury(id, key, deaths, blame)
  local payload = fail(id, key, 'poison', 'this text ended ' .. deaths .. ' workers')
  redis.call('SET', result_key(id), payload, 'PX', HINT_MS)
  redis.call('LPUSH', DEAD, id .. ' poison attempts=' .. deaths .. ' ' .. blame)
  redis.call('LTRIM', DEAD, 0, 999)
end

-- Of the workers that lost an entry while they ran it alone: how many have ended, of how many nobody can tell yet, and all of
-- these by name.
-- A lease may end because beats came late, Redis was away or the reply to a claim was lost: a worker that has
-- beaten since lives, the text did it no harm, and what ends it later is another story.
local function deaths(blame)
  local gone, unsure, lost, kept = 0, 0, {}, ''
  for worker, last in string.gmatch(blame, '(%S+) (%d+);') do lost[worker] = last end -- each ends but once
  for worker, last in pairs(lost) do
    local beaten = tonumber(redis.call('HGET', P .. ':worker:' .. worker, 'beaten'))
    if not beaten or beaten <= tonumber(last) then
      kept = kept .. worker .. ' ' .. last .. ';'
      if beaten then unsure = unsure + 1 else gone = gone + 1 end
    end
  end
  return gone, unsure, kept
end

-- What becomes of an entry whose lease ended at `score`: true when it goes to the solo list.
-- The first time it is a suspect and nothing more. From then on it runs alone, and the end of a worker speaks against
-- the one text that this worker had in hand: not against others whose claims it never heard the answers of.
local function judge(id, score, max_attempts)
  local key = entry_key(id)
  local facts = redis.call('HMGET', key, 'deadline', 'blame', 'worker', 'lease', 'doubt', 'attempts')
  local deadline = tonumber(facts[1])
  if not deadline then return false end
  -- Of the last beat that knew of the entry; one may have been under way as the claim was answered, the next was not.
  local last = score - (tonumber(facts[4]) or 0) * 3 / 4
  if facts[5] then
    local looked, beat = string.match(facts[5], '(%d+) (%d+)')
    if tonumber(looked) == score then last = tonumber(beat) end
  end
  local blame, worker = facts[2] or '', facts[3] or '?'
  if (tonumber(facts[6]) or 0) > 1 and redis.call('GET', alone_key(worker)) == id then
    blame = blame .. string.format('%s %.0f;', worker, last)
  end
  local gone, unsure, kept = deaths(blame)
  if gone >= max_attempts then
    bury(id, key, gone, kept)
  elseif deadline <= now then
    expire(id, key)
  elseif gone + unsure >= max_attempts then
    -- It may be the text: nobody else gets it before it is known whether that worker lives.
    redis.call('ZADD', INFLIGHT, now + 100, id)
    redis.call('HSET', key, 'doubt', string.format('%.0f %.0f', now + 100, last))
  else
    redis.call('HSET', key, 'blame', kept)
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
