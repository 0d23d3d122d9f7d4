-- Records results.
--
-- KEYS  of each: the record, what is in progress in its shard
-- ARGV  whether the asker waits for replicas; of each: token, retention in milliseconds, result
--
-- Of several results, each is answered for itself; if all are recorded, with one 1.

local KEYS, ARGV = KEYS, ARGV
local waits = ARGV[1] == '1'
local time = redis.call('TIME')
local millis = time[1] * 1000 + floor(time[2] / 1000)
local completed = decimal(millis)

local function complete(key, in_progress, token, retention, result)
    local record, at = read(key)
    if not record and at then
        return { 'corrupt', at }
    end
    if not record or sub(record, 2, 17) ~= token then
        return 0
    end
    if sub(record, 1, 1) == 'c' then
        -- As a claim writes again what it finds.
        if waits then
            local kept = redis.pcall('PEXPIREAT', key, tonumber(sub(record, 44, 59)))
            if type(kept) == 'table' then
                return kept
            end
        end
        return 1
    end
    local expires = millis + retention
    -- First, since it needs no memory: a server that has none left refuses a script at its first write, and never after
    -- that. An error of one result is not to end the script, which others are in.
    local unlisted = redis.pcall('ZREM', in_progress, key)
    if type(unlisted) == 'table' then
        return find(unlisted.err, 'WRONGTYPE') and { 'corrupt', 'list' } or unlisted
    end
    local kept = redis.pcall('SET', key, 'c' .. sub(record, 2, 27) .. completed .. decimal(expires) .. sub(record, 60) .. result,
        'PXAT', expires)
    if kept.err then
        -- Otherwise it would be in progress, and in no list.
        redis.pcall('ZADD', in_progress, token, key)
        return kept
    end
    -- Notifies the processes that wait. A server that forbids this has done everything else.
    redis.pcall('PUBLISH', key, '')
    return 1
end

if #KEYS == 2 then
    return complete(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4])
end
local answers, all_done = {}, true
for number = 1, #KEYS / 2 do
    local argument = 3 * number
    local answer = complete(KEYS[2 * number - 1], KEYS[2 * number],
        ARGV[argument - 1], ARGV[argument], ARGV[argument + 1])
    answers[number], all_done = answer, all_done and answer == 1
end
return all_done and 1 or answers
