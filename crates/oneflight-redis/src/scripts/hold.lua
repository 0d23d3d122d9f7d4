-- Has a request wait for an operator's decision.
--
-- KEYS  the record
-- ARGV  token

local record, at = read(KEYS[1])
if not record and at then
    return { 'corrupt', at }
end
if not record or sub(record, 2, 17) ~= ARGV[1] or sub(record, 1, 1) == 'c' then
    return 0
end
return overwrite(KEYS[1], 1, 'h') or 1
