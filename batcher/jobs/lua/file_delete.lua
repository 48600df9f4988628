-- Removes a file. ARGV: id. Returns 1, or 0 if there is no such file.
remove('file:' .. ARGV[1])
return redis.call('UNLINK', P .. ':file:' .. ARGV[1])
