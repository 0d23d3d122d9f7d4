-- Ends the lease of a claim after this time, whatever is left of it.
--
-- KEYS  the record
-- ARGV  token, what is to be left of the lease, in milliseconds

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if record.token ~= ARGV[1] or record.completed then
    return { 'outdated' }
end
overwrite(KEYS[1], 'lease_expires', decimal(math.floor(now() / 1000) + tonumber(ARGV[2])))
if ARGV[2] == '0' then
    tell(KEYS[1])
end
return { 'done' }
