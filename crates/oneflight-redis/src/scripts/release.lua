-- Gives the claim back.
--
-- KEYS  the record; what is in progress in its shard
-- ARGV  token

local record, at = read(KEYS[1])
if not record and at then
    return { 'corrupt', at }
end
if not record or sub(record, 2, 17) ~= ARGV[1] or sub(record, 1, 1) == 'c' then
    return 0
end
local unlisted = redis.pcall('ZREM', KEYS[2], KEYS[1])
if type(unlisted) == 'table' then
    return find(unlisted.err, 'WRONGTYPE') and { 'corrupt', 'list' } or unlisted
end
local deleted = redis.pcall('DEL', KEYS[1])
if type(deleted) == 'table' then
    -- Otherwise it would be in progress, and in no list.
    redis.pcall('ZADD', KEYS[2], ARGV[1], KEYS[1])
    return deleted
end
redis.pcall('PUBLISH', KEYS[1], '')
return 1
