-- Takes the right to execute, or says why not: `store::decide`, with what follows from it.
--
-- KEYS  the record; the last token of its shard; what is in progress in its shard
-- ARGV  whether the asker waits for replicas, fingerprint or nothing, holder, lease in milliseconds, from whom may be taken
--       over (`never`, `expired`, a token), the largest token of the shard that the asker knows, the id of the request or nothing

local waits, fingerprint, holder, lease, takeover = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local known, correlation = whole(ARGV[6]), ARGV[7]
local micros = now()
local millis = math.floor(micros / 1000)

local record, wrong = read(KEYS[1])
if not record then
    return { 'corrupt', wrong }
end
local attempt, took_over, held = 1, false, false
local past_retention = record.completed and whole(record.expires) <= millis
if record.token and not past_retention then
    if (record.fingerprint or '') ~= fingerprint then
        return { 'conflict' }
    end
    if record.completed then
        write_again(waits, KEYS[1], 'completed', record.completed)
        return answer(KEYS[1], record, millis)
    end
    local remaining = whole(record.lease_expires) - millis
    attempt = whole(record.attempt)
    if record.holder == holder and remaining > 0 then
        write_again(waits, KEYS[1], 'lease_expires', record.lease_expires)
        return { 'granted', record.token, record.attempt, false, '0' }
    elseif record.holder == holder and not record.held then
        -- It asks again too late, for the same attempt.
    elseif remaining > 0 then
        return { 'in progress', decimal(remaining), record.attempt }
    elseif takeover ~= record.token and (record.held or takeover ~= 'expired') then
        return { 'in doubt', record.token, record.attempt }
    else
        attempt = math.min(attempt + 1, LARGEST_ATTEMPT)
        took_over = record.token
    end
    held = record.held
    if correlation == '' then
        correlation = redis.call('HGET', KEYS[1], 'correlation') or ''
    end
end

local last = redis.pcall('GET', KEYS[2])
if type(last) == 'table' then
    return { 'corrupt', 'last token' }
end
last = whole(last or '0')
if not last then
    return { 'corrupt', 'last token' }
end
local token = math.max(math.max(last, known, whole(record.token) or 0) + 1, micros)
if token >= END_OF_NUMBERS then
    return { 'corrupt', 'last token' }
end
token, attempt = decimal(token), decimal(attempt)
redis.call('SET', KEYS[2], token)
redis.call('ZADD', KEYS[3], token, KEYS[1])
if record.token then
    -- With it goes the time at which what was completed would expire.
    redis.call('DEL', KEYS[1])
end
local fields = { 'token', token, 'holder', holder, 'attempt', attempt, 'lease_expires', decimal(millis + lease) }
if fingerprint ~= '' then
    fields[#fields + 1] = 'fingerprint'
    fields[#fields + 1] = fingerprint
end
if correlation ~= '' then
    fields[#fields + 1] = 'correlation'
    fields[#fields + 1] = correlation
end
if held then
    fields[#fields + 1] = 'held'
    fields[#fields + 1] = held
end
redis.call('HSET', KEYS[1], unpack(fields))
return { 'granted', token, attempt, took_over, last < known and '1' or '0' }
