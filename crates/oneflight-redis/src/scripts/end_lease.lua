-- Ends the lease of a claim after this time, whatever is left of it.
--
-- KEYS  the record
-- ARGV  token, what is to be left of the lease, in milliseconds

local record, at = read(KEYS[1])
if not record and at then
    return { 'corrupt', at }
end
if not record or sub(record, 2, 17) ~= ARGV[1] or sub(record, 1, 1) == 'c' then
    return 0
end
local time = redis.call('TIME')
local failed = overwrite(KEYS[1], 28, decimal(time[1] * 1000 + floor(time[2] / 1000) + ARGV[2]))
if failed then
    return failed
end
if ARGV[2] == '0' then
    redis.pcall('PUBLISH', KEYS[1], '')
end
return 1
