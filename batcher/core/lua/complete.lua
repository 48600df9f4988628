-- Writes results, sends them to the API processes that wait, and ends leases and entries. Idempotent: a second call finds
-- nothing to delete, and the result of an entry that has ended is dropped: it may have been forgotten since.
-- The cache never delays a result: nothing is cached while memory is short or after the first refusal.
-- A failure ends an entry only if a second worker failed on it too, or if there is no other live worker and the budget ends.
-- ARGV: worker, 1 if the worker now has nothing to do (2: and may help other shards), result_ms, failure_ms, cache key prefix, cache lifetime in ms (0 if the cache is elsewhere),
--       then id, payload for each.
-- Returns {how many entries were still waiting for their result, why Redis refused to cache results (or nothing)}.
local worker, idle, result_ms, failure_ms = ARGV[1], ARGV[2] ~= '0', ARGV[3], ARGV[4]
local cache_prefix, cache_ms = ARGV[5], ARGV[6]
local ids, keys, payloads, entries, hints = {}, {}, {}, {}, {}
local byte, NEWLINE = string.byte, 10
local function failed(payload) return byte(payload, -1) == NEWLINE end
for i = 7, #ARGV, 2 do keys[#keys + 1] = entry_key(ARGV[i]) end
local found = values_of(keys)
local function write_cache()
  for i = 7, #ARGV, 2 do
    if found[(i - 5) / 2] and not failed(ARGV[i + 1]) then
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

-- Returns an entry on which this worker failed to the queue, to run alone: at once if there is another live worker, else after a
-- pause that grows with the entry's age. False if the failure is final. An entry that no API process waits for is deleted.
local clock_read = false
local function runs_again(id)
  if not clock_read then now, clock_read = queue_clock(), true end
  local deadline, _, _, enqueued, _, names = string.match(read_entry(id) or '', ASKED)
  if not deadline then return false end
  local attempts, claimer, lease, inspected, heartbeat, lost = claim_parts(read_claim(id))
  -- Sent twice, or too late: the entry waits again, or another worker runs it.
  if claimer ~= worker then return true end
  if names == '' then
    redis.call('ZREM', INFLIGHT, id)
    delete_entry(id)
    return true
  end
  local first = redis.call('GET', failed_key(id))
  local others = others_live()
  local pause = others and 0 or 100 + (now - enqueued) / 2
  if (first and first ~= worker) or now + pause >= tonumber(deadline) then return false end
  even_when_full()
  -- Without a worker, so that the end of this one is not taken for the entry's doing.
  write_claim(id, claim_line(attempts, '-', lease, inspected, heartbeat, lost))
  redis.call('SET', failed_key(id), worker, 'PX', digits(deadline - now))
  if others then
    redis.call('ZREM', INFLIGHT, id)
    redis.call('RPUSH', SOLO, id)
    wake_workers(1)
  else
    redis.call('ZADD', INFLIGHT, now + pause, id)
  end
  return true
end

local count = 0
keys = {}
for i = 7, #ARGV, 2 do
  local id, payload = ARGV[i], ARGV[i + 1]
  if not (failed(payload) and runs_again(id)) then
    count = count + 1
    ids[count], keys[count], payloads[count], entries[count] = id, entry_key(id), payload, found[(i - 5) / 2]
  end
end
if call_in_chunks(ids, 'ZREM', INFLIGHT) < count then
  -- Some leases had already ended. If such an entry was enqueued again meanwhile, take its cost off the lane.
  for n, id in ipairs(ids) do
    local _, lane, cost = string.match(entries[n] or '', HEAD)
    subtract_unclaimed(id, lane, cost)
  end
end
-- Most entries of a batch have the same trace and wait for the same API processes, so the end of the first line is compared
-- with the last one before it is read.
local last, last_names = nil, nil
local function names_of(entry)
  local ends = string.find(entry, '\n', 1, true)
  if not ends then return nil end
  if not last or string.sub(entry, ends - #last + 1, ends) ~= last then
    local trace, names = string.match(entry, '^%d+ %l+ %d+ %d+ (%S+) ([^\n]*)\n')
    if not trace then return nil end
    last, last_names = ' ' .. trace .. ' ' .. names .. '\n', names
  end
  return last_names
end
for n, id in ipairs(ids) do
  local payload, entry = payloads[n], entries[n]
  local final = failed(payload)
  if final and entry then
    local first = redis.call('GET', failed_key(id))
    local workers = first and first ~= worker and first .. ' ' .. worker or worker
    local revision = redis.call('HGET', worker_key(worker), 'revision')
    local code = string.match(payload, '"code": ?"([%w_]+)"') or 'inference_failed'
    record_refusal(id, code, claim_parts(read_claim(id)), workers, revision)
  end
  -- The result of an entry that has ended meanwhile changes nothing: the one that it has, if any, stays.
  if entry then redis.call('SET', result_key(id), payload, 'PX', final and failure_ms or result_ms) end
  local names = entry and names_of(entry)
  if names then
    local parts = hints[names] or {}
    local at = #parts
    hints[names] = parts
    parts[at + 1], parts[at + 2], parts[at + 3], parts[at + 4] = id, '\n', payload, '\0'
  end
end
-- Lua joins up to 8 KB in one go, about as much as these parts are.
local JOINED = 4 * 32
for names, parts in pairs(hints) do
  local results = {}
  for i = 1, #parts, JOINED do
    results[#results + 1] = table.concat(parts, '', i, math.min(i + JOINED, #parts + 1) - 2)
  end
  for api in string.gmatch(names, '%S+') do hint(api, results) end
end
call_in_chunks(ids, 'HDEL', CLAIMS)
if idle then
  -- If this repeats a call whose reply was lost, nothing has been written yet.
  if count == 0 then even_when_full() end
  -- What was enqueued while this worker was busy found no idle worker, so this one wakes itself.
  if not clock_read then now = queue_clock() end
  if count_waiting() > 0 or (ARGV[2] == '2' and redis.call('EXISTS', P .. ':help') == 1) then
    wake(worker)
  else
    set_idle(worker, 0)
  end
end
return { call_in_chunks(keys, 'DEL'), refusal }
