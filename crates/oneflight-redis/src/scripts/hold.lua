-- Has a request wait for an operator's decision.
--
-- KEYS  the record
-- ARGV  token

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if record.token ~= ARGV[1] or record.completed then
    return { 'outdated' }
end
redis.call('HSET', KEYS[1], 'held', '1')
return { 'done' }
