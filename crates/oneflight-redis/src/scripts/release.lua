-- Gives the claim back.
--
-- KEYS  the record; what is in progress in its shard
-- ARGV  token

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if record.token ~= ARGV[1] or record.completed then
    return { 'outdated' }
end
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
tell(KEYS[1])
return { 'done' }
