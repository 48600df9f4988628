-- Returns the time in microseconds, and for each of the keys in ARGV the texts that its jobs have used today, and have
-- yet to use.
local texts, left = { string.format('%.0f', clock[1] * 1000000 + clock[2]) }, {}
for _, status in ipairs({ 'queued', 'running' }) do
  for _, place in ipairs(redis.call('ZRANGE', index_of(status), 0, -1)) do
    local fields = redis.call('HMGET', job_key(id_of(place)), 'place', 'key', 'total', 'done')
    if fields[1] == place and fields[2] then
      left[fields[2]] = (left[fields[2]] or 0) + tonumber(fields[3]) - tonumber(fields[4])
    end
  end
end
for _, key in ipairs(ARGV) do
  local used = tonumber(redis.call('HGET', usage_of(today()), key .. ' texts')) or 0
  texts[#texts + 1] = used + (left[key] or 0)
end
return texts
