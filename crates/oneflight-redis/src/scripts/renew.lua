-- Prolongs the leases of claims, and never shortens one.
--
-- KEYS  the records
-- ARGV  of each, token and lease in milliseconds
--
-- Answers of each: 1 if it is renewed, 0 if the claim is not the token's any more, what is wrong with the record, or an
-- error.

local time = redis.call('TIME')
local millis = time[1] * 1000 + floor(time[2] / 1000)
local answers = {}
for number, key in ipairs(KEYS) do
    local record, at = read(key)
    if not record and at then
        answers[number] = at
    elseif not record or sub(record, 2, 17) ~= ARGV[2 * number - 1] or sub(record, 1, 1) == 'c' then
        answers[number] = 0
    else
        local ends = decimal(millis + ARGV[2 * number])
        answers[number] = ends > sub(record, 28, 43) and overwrite(key, 28, ends) or 1
    end
end
return answers
