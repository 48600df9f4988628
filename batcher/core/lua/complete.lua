-- Writes results, tells who waits, drops leases and entries. Idempotent: a second time finds nothing to drop.
-- The cache never stops an answer: nothing is remembered where memory is short, or from the first refusal on.
-- ARGV: result_ms, failure_ms, what long-lived results start with, their lifetime in ms (0: they are kept elsewhere),
--       then id, payload for each.
-- Returns {how many entries were still waiting for theirs, why Redis refused to remember results (or nothing)}.
local result_ms, failure_ms, remembered, remember_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ids, keys, hints = {}, {}, {}
local function failed(payload) return string.sub(payload, -1) == '\n' end
local function remember()
  for i = 5, #ARGV, 2 do
    if not failed(ARGV[i + 1]) then
      redis.call('SET', remembered .. ARGV[i], ARGV[i + 1], 'PX', remember_ms)
    end
  end
end
local refusal = ''
if remember_ms ~= '0' and redis.call('EXISTS', FULL) == 0 then
  -- Before all else: a full Redis refuses this then, and takes the rest.
  local done, why = pcall(remember)
  if not done then refusal = type(why) == 'table' and why.err or tostring(why) end
end
for i = 5, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
  keys[#keys + 1] = entry_key(ARGV[i])
end
local entries = values_of(keys)
if in_thousands(ids, 'ZREM', INFLIGHT) < #ids then
  -- Some came late: their leases had ended. What was queued anew meanwhile leaves the lane, its cost with it.
  for n, id in ipairs(ids) do
    local _, lane, cost = string.match(entries[n] or '', HEAD)
    uncount_unclaimed(id, lane, cost)
  end
end
for n, id in ipairs(ids) do
  local payload = ARGV[4 + 2 * n]
  redis.call('SET', result_key(id), payload, 'PX', failed(payload) and failure_ms or result_ms)
  for api in waiters(entries[n]) do
    local list = hints[api] or {}
    list[#list + 1] = id .. '\n' .. payload
    hints[api] = list
  end
end
for api, results in pairs(hints) do hint(api, results) end
in_thousands(ids, 'HDEL', CLAIMS)
return { in_thousands(keys, 'DEL'), refusal }
