-- An API process stops waiting for entries. An entry that no other process waits for and no worker runs is deleted. Its id
-- stays in the lane as a tombstone, which claim.lua skips: finding it would take time proportional to the lane's length.
-- ARGV: api, then ids. Returns how many entries were deleted.
local api, removed, tombstones = ARGV[1], 0, 0
-- True if a worker runs the entry. One that has failed and is held back until its next attempt is in flight as well.
local function runs(id)
  if not redis.call('ZSCORE', INFLIGHT, id) then return false end
  local _, claimer = claim_parts(read_claim(id))
  return claimer ~= '-'
end
even_when_full()
for i = 2, #ARGV do
  local id = ARGV[i]
  local deadline, lane, cost, enqueued, trace, names, text = string.match(read_entry(id) or '', ASKED)
  if deadline then
    local others, left = {}, false
    for name in string.gmatch(names, '%S+') do
      if name == api then left = true else others[#others + 1] = name end
    end
    if #others == 0 and not runs(id) then
      subtract_unclaimed(id, lane, cost)
      tombstones = tombstones + 1 - redis.call('ZREM', INFLIGHT, id)
      removed = removed + delete_entry(id)
    elseif left then
      write_entry(entry_key(id), deadline, lane, cost, enqueued, trace, table.concat(others, ' '), text, 'KEEPTTL')
    end
  end
end
if tombstones > 0 then add_waiting('void', tombstones) end
return removed
