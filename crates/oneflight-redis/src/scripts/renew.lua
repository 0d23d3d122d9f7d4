-- Prolongs the lease of a claim, and never shortens it.
--
-- KEYS  the record
-- ARGV  token, lease in milliseconds

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if record.token ~= ARGV[1] or record.completed then
    return { 'outdated' }
end
local expires = math.floor(now() / 1000) + tonumber(ARGV[2])
if expires > whole(record.lease_expires) then
    overwrite(KEYS[1], 'lease_expires', decimal(expires))
end
return { 'done' }
