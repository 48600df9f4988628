-- Lists jobs, newest first, and removes expired jobs. ARGV: status ('': any), owner asking ('': sees all),
-- before (a place; '': the newest), most jobs to return, most jobs to examine, '1' for batches only.
-- Returns {the place to continue from | '', then ids}.
local status, owner, before, most, looks = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local index, reply = status == '' and ALL or index_of(status), { '' }
prune()
while looks > 0 do
  local places = redis.call('ZREVRANGEBYLEX', index, before == '' and '+' or '(' .. before, '-', 'LIMIT', 0, math.min(looks, most + 1))
  for _, place in ipairs(places) do
    if #reply > most then
      reply[1] = before
      return reply
    end
    before = place
    local fields = redis.call('HMGET', job_key(id_of(place)), 'place', 'owner', 'batch')
    if fields[1] ~= place then
      drop(place)
    elseif (owner == '' or fields[2] == '' or fields[2] == owner) and (ARGV[6] ~= '1' or (fields[3] or '') ~= '') then
      reply[#reply + 1] = id_of(place)
    end
  end
  if #places < math.min(looks, most + 1) then return reply end
  looks = looks - #places
end
reply[1] = before
return reply
