-- Records the result.
--
-- KEYS  the record; what is in progress in its shard
-- ARGV  whether the asker waits for replicas, token, retention in milliseconds, result

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if record.token ~= ARGV[2] then
    return { 'outdated' }
end
if record.completed then
    write_again(ARGV[1], KEYS[1], 'completed', record.completed)
    return { 'done' }
end
local millis = math.floor(now() / 1000)
local expires = decimal(millis + tonumber(ARGV[3]))
-- First, since it needs no memory: a server that has none left refuses a script at its first write, and never after
-- that.
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('HDEL', KEYS[1], 'lease_expires', 'held')
redis.call('HSET', KEYS[1], 'completed', decimal(millis), 'expires', expires, 'result', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], expires)
tell(KEYS[1])
return { 'done' }
