-- Stands before every script. KEYS[1] is the prefix P, which carries the hash tag: all keys share a slot.
-- Times are milliseconds of the Redis clock; callers send durations, never moments.
local P = KEYS[1]
local BULK, Q, SOLO, INFLIGHT = P .. ':bulk', P .. ':q', P .. ':solo', P .. ':inflight'
local FIRST = P .. ':first'
local WAITING, DEAD, MODEL, WORKERS = P .. ':waiting', P .. ':dead', P .. ':model', P .. ':workers'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local HINT_MS = 60000

local function entry_key(id) return P .. ':entry:' .. id end
local function result_key(id) return P .. ':res:' .. id end
local function list_of(lane) if lane == 'bulk' then return BULK end return Q end

-- Wakes idle workers. They read the stream without consuming it, so a ring can be neither lost nor stolen.
local function ring()
  redis.call('XADD', P .. ':bell', 'MAXLEN', '1', '*', 'r', '1')
  redis.call('PEXPIRE', P .. ':bell', HINT_MS)
end

local function uncount(lane, cost)
  if lane then redis.call('HINCRBY', WAITING, lane, -(tonumber(cost) or 0)) end
end

-- The names of the API processes that wait for an entry.
local function waiters(key)
  local names = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'w:' then names[#names + 1] = string.sub(field, 3) end
  end
  return names
end

local function hint(api, id, payload)
  local list = P .. ':reply:' .. api
  redis.call('RPUSH', list, id .. '\n' .. payload)
  redis.call('PEXPIRE', list, HINT_MS)
end

local function fail(id, key, code, message)
  local payload = cjson.encode({ code = code, message = message }) .. '\n'
  for _, api in ipairs(waiters(key)) do hint(api, id, payload) end
  redis.call('DEL', key)
  return payload
end

-- A deadline belongs to its callers: they are told, and nothing is remembered.
local function expire(id, key)
  fail(id, key, 'budget_exceeded', 'the budget ended before a worker took the text')
end

-- A text that ended too many workers. Remembered while its result key lives, or it would end more.
local function bury(id, key, deaths)
  local payload = fail(id, key, 'poison', 'this text ended ' .. deaths .. ' workers')
  redis.call('SET', result_key(id), payload, 'PX', HINT_MS)
  redis.call('LPUSH', DEAD, id .. ' poison attempts=' .. deaths)
  redis.call('LTRIM', DEAD, 0, 999)
end

-- How many workers have ended with an entry in their hands. A lease may also end because beats came late, Redis
-- was away or the reply to a claim was lost: a worker that has beaten since is alive, and the text did it no harm.
-- `blame` names each worker and the last moment of its lease's life.
local function deaths(blame)
  local count = 0
  for worker, last in string.gmatch(blame, '(%S+) (%d+);') do
    local beaten = tonumber(redis.call('HGET', P .. ':worker:' .. worker, 'beaten'))
    if not beaten or beaten <= tonumber(last) then count = count + 1 end
  end
  return count
end

-- Entries whose lease ended go to the solo list: their worker died or hangs, and one of them may be why.
local function recover(limit, max_attempts)
  local ids = redis.call('ZRANGEBYSCORE', INFLIGHT, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  local recovered = 0
  for i = 1, #ids, 2 do
    local id = ids[i]
    redis.call('ZREM', INFLIGHT, id)
    local key = entry_key(id)
    local facts = redis.call('HMGET', key, 'deadline', 'blame', 'worker', 'lease')
    local deadline = tonumber(facts[1])
    if deadline then
      local last = (tonumber(ids[i + 1]) or now) - (tonumber(facts[4]) or 0)
      local blame = (facts[2] or '') .. string.format('%s %.0f;', facts[3] or '?', last)
      redis.call('HSET', key, 'blame', blame)
      local ended = deaths(blame)
      if ended >= max_attempts then
        bury(id, key, ended)
      elseif deadline <= now then
        expire(id, key)
      else
        redis.call('RPUSH', SOLO, id)
        recovered = recovered + 1
      end
    end
  end
  if recovered > 0 then ring() end
  return recovered
end
