-- An API process no longer waits. An entry that nobody waits for, and nobody runs, is gone; its place in the lane is
-- void from then on: who claims passes over it. To look for it would take time that grows with the lane.
-- ARGV: api, then ids. Returns how many entries are gone.
local api, removed = ARGV[1], 0
even_when_full()
for i = 2, #ARGV do
  local id = ARGV[i]
  local deadline, lane, cost, enqueued, trace, names, text = string.match(entry_of(id) or '', ASKED)
  if deadline then
    local others, left = {}, false
    for name in string.gmatch(names, '%S+') do
      if name == api then left = true else others[#others + 1] = name end
    end
    if #others == 0 and not redis.call('ZSCORE', INFLIGHT, id) then
      uncount_unclaimed(id, lane, cost)
      removed = removed + forget(id)
    elseif left then
      write_entry(entry_key(id), deadline, lane, cost, enqueued, trace, table.concat(others, ' '), text, 'KEEPTTL')
    end
  end
end
if removed > 0 then count('void', removed) end
return removed
