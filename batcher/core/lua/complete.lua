-- Writes results, sends them to the API processes that wait, and ends leases and entries. Idempotent: a second call finds
-- nothing to delete. The cache never delays a result: nothing is cached while memory is short or after the first refusal.
-- ARGV: result_ms, failure_ms, cache key prefix, cache lifetime in ms (0 if the cache is elsewhere),
--       then id, payload for each.
-- Returns {how many entries were still waiting for their result, why Redis refused to cache results (or nothing)}.
local result_ms, failure_ms, cache_prefix, cache_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ids, keys, hints = {}, {}, {}
local function failed(payload) return string.sub(payload, -1) == '\n' end
local function write_cache()
  for i = 5, #ARGV, 2 do
    if not failed(ARGV[i + 1]) then
      redis.call('SET', cache_prefix .. ARGV[i], ARGV[i + 1], 'PX', cache_ms)
    end
  end
end
local refusal = ''
if cache_ms ~= '0' and redis.call('EXISTS', FULL) == 0 then
  -- The cache is written first: a Redis that is full then refuses these writes and accepts the others.
  local done, why = pcall(write_cache)
  if not done then refusal = type(why) == 'table' and why.err or tostring(why) end
end
for i = 5, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
  keys[#keys + 1] = entry_key(ARGV[i])
end
local entries = values_of(keys)
if call_in_chunks(ids, 'ZREM', INFLIGHT) < #ids then
  -- Some leases had already ended. If such an entry was enqueued again meanwhile, take its cost off the lane.
  for n, id in ipairs(ids) do
    local _, lane, cost = string.match(entries[n] or '', HEAD)
    subtract_unclaimed(id, lane, cost)
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
call_in_chunks(ids, 'HDEL', CLAIMS)
return { call_in_chunks(keys, 'DEL'), refusal }
