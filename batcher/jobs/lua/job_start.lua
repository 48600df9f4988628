-- Begins an attempt at a job; only this attempt may then write results. Repeating a call has no further effect.
-- ARGV: id, token of the attempt, ttl_ms, most_stalled (consecutive attempts that may end without progress).
-- Returns what `begin` does.
return begin(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
