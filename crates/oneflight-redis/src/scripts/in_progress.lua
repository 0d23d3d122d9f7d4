-- What is in progress in a shard, in the order of the tokens: each record's key, and its token.
--
-- KEYS  what is in progress in the shard
-- ARGV  the smallest token, how many

return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', '0', ARGV[2])
