-- What is known of an identity.
--
-- KEYS  the record
-- ARGV  whether the asker waits for replicas

local record, at = read(KEYS[1])
if not record then
    return at and { 'corrupt', at } or { 'absent' }
end
local time = redis.call('TIME')
local millis = time[1] * 1000 + floor(time[2] / 1000)
local expires = tonumber(sub(record, 44, 59))
-- As a claim writes again what it finds. What is past its retention would be deleted by that.
if ARGV[1] == '1' and sub(record, 1, 1) == 'c' and expires > millis then
    redis.call('PEXPIREAT', KEYS[1], expires)
end
return { 'record', decimal(millis), record }
