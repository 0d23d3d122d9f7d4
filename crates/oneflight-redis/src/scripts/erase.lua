-- Deletes a completed record, or puts what is left of its result in its place.
--
-- KEYS  the record
-- ARGV  the token, or nothing for any; what is left of the result, or nothing

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if not record.completed then
    return { 'outdated' }
end
if ARGV[1] ~= '' and ARGV[1] ~= record.token then
    return { 'outdated' }
elseif ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    overwrite(KEYS[1], 'result', ARGV[2])
end
return { 'done' }
