-- What is known of an identity.
--
-- KEYS  the record
-- ARGV  whether the asker waits for replicas

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
if not record.token then
    return { 'absent' }
end
if record.completed then
    write_again(ARGV[1], KEYS[1], 'completed', record.completed)
end
return answer(KEYS[1], record, math.floor(now() / 1000))
