-- The next keys of this server, of all that it has: the place to go on from, and the keys.
--
-- KEYS  a key of ours, so that this runs on the server that has its slot
-- ARGV  the place, a pattern, about how many

return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
