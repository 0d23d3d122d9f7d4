-- What is known of an identity, for an operator: `load`, with the id of the request that claimed at the end.
--
-- KEYS  the record

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if not record.token then
    return { 'absent' }
end
local answered = answer(KEYS[1], record, math.floor(now() / 1000))
if answered[1] == 'record' then
    answered[12] = redis.call('HGET', KEYS[1], 'correlation')
end
return answered
