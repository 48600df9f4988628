-- Returns 'full' if as many jobs wait as may, 'client_full' if half of these are the client's, else ''.
-- ARGV: client, most (jobs that may wait).
return crowded(ARGV[1], tonumber(ARGV[2])) or ''
