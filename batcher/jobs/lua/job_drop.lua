-- Removes an upload. ARGV: id, upload.
redis.call('UNLINK', job_key(ARGV[1]) .. ':upload:' .. ARGV[2])
remove('upload:' .. ARGV[1] .. ':upload:' .. ARGV[2])
return 1
