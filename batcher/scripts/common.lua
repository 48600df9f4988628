-- Stands before every script. KEYS[1] is the prefix P, which carries the hash tag: all keys share a slot.
-- Times are milliseconds of the Redis clock; callers send durations, never moments.
local P = KEYS[1]
local BULK, Q, SOLO, INFLIGHT = P .. ':bulk', P .. ':q', P .. ':solo', P .. ':inflight'
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
local function bury(id, key, attempts)
  local payload = fail(id, key, 'poison', 'this text ended ' .. attempts .. ' workers')
  redis.call('SET', result_key(id), payload, 'PX', HINT_MS)
  redis.call('LPUSH', DEAD, id .. ' poison attempts=' .. attempts)
  redis.call('LTRIM', DEAD, 0, 999)
end

-- Entries whose lease ended go to the solo list: their worker died or hangs, and one of them may be why.
local function recover(limit, max_attempts)
  local ids = redis.call('ZRANGEBYSCORE', INFLIGHT, '-inf', now, 'LIMIT', 0, limit)
  local recovered = 0
  for _, id in ipairs(ids) do
    redis.call('ZREM', INFLIGHT, id)
    local key = entry_key(id)
    local facts = redis.call('HMGET', key, 'deadline', 'attempts')
    local deadline, attempts = tonumber(facts[1]), tonumber(facts[2]) or 0
    if deadline then
      if attempts >= max_attempts then
        bury(id, key, attempts)
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
