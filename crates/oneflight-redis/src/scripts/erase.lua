-- Deletes a completed record, or puts what is left of its result in its place.
--
-- KEYS  the record
-- ARGV  nothing, or the token; what is left of the result

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if not record.completed then
    return { 'outdated' }
end
if ARGV[1] == '' then
    redis.call('DEL', KEYS[1])
elseif ARGV[1] ~= record.token then
    return { 'outdated' }
else
    overwrite(KEYS[1], 'result', ARGV[2])
end
return { 'done' }
