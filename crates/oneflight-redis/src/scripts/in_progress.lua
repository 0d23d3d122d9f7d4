-- What is in progress in a shard, in the order of the tokens: each record's key, and its token; and behind them all, the last token
-- of the shard, by a name that is no key.
--
-- KEYS  what is in progress in the shard
-- ARGV  the smallest token, how many

return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', '0', ARGV[2])
