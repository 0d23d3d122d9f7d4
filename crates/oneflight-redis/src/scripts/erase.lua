-- Deletes a completed record, or puts what is left of its result in its place.
--
-- KEYS  the record
-- ARGV  the token, or nothing for any; what is left of the result, or nothing

local record, at = read(KEYS[1])
if not record and at then
    return { 'corrupt', at }
end
if not record or sub(record, 1, 1) ~= 'c' then
    return 0
end
if ARGV[1] ~= '' and ARGV[1] ~= sub(record, 2, 17) then
    return 0
elseif ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], sub(record, 1, at - 1) .. ARGV[2], 'KEEPTTL')
end
return 1
