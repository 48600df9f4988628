-- Adds facts that only an API process knows to the record of a refused text, if there is one.
-- ARGV: id, client, text to keep ('': none; others begin with '='), for how many ms.
local record = redis.call('HGET', REFUSALS, ARGV[1])
if not record then return 0 end
even_when_full()
record = cjson.decode(record)
record.client = ARGV[2]
redis.call('HSET', REFUSALS, ARGV[1], cjson.encode(record))
if ARGV[3] ~= '' then redis.call('SET', REFUSED .. ':' .. ARGV[1], string.sub(ARGV[3], 2), 'PX', ARGV[4]) end
return 1
