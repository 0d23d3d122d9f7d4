-- What is known of an identity.
--
-- KEYS  the record

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if not record.token then
    return { 'absent' }
end
return answer(KEYS[1], record, math.floor(now() / 1000))
