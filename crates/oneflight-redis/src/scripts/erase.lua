-- Deletes a completed record, or puts what is left of its result in its place.
--
-- KEYS  the record
-- ARGV  nothing, or the token; what is left of the result

local record, at = read(KEYS[1])
if not record and at then
    return { 'corrupt', at }
end
if not record or sub(record, 1, 1) ~= 'c' then
    return 0
end
if ARGV[1] == '' then
    redis.call('DEL', KEYS[1])
elseif ARGV[1] ~= sub(record, 2, 17) then
    return 0
else
    redis.call('SET', KEYS[1], sub(record, 1, at - 1) .. ARGV[2], 'KEEPTTL')
end
return 1
