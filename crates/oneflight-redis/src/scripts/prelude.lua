-- What stands before every script: the server's time, and a record as it is kept.
--
-- A record is a hash with the fields below; what is absent is false here. Numbers are written as decimal text, and are
-- below 2^53, which is as far as Lua counts exactly. All keys that a script is given lie in one shard, hence in one slot.

local LARGEST_ATTEMPT = 4294967295
local END_OF_NUMBERS = 9007199254740992

-- The server's time in microseconds.
local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function whole(text)
    local number = text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text)
    return number and number < END_OF_NUMBERS and number
end

local function decimal(number)
    return string.format('%.0f', number)
end

-- Answers with the record, which has no token if it is absent, or with what is wrong with it.
local function read(key)
    local fields = redis.pcall('HMGET', key,
        'token', 'fingerprint', 'holder', 'attempt', 'lease_expires', 'completed', 'expires', 'held')
    if fields.err then
        -- Whatever else it is, it will be in the way of the next command too.
        return nil, 'key'
    end
    local record = {
        token = fields[1], fingerprint = fields[2], holder = fields[3], attempt = fields[4],
        lease_expires = fields[5], completed = fields[6], expires = fields[7], held = fields[8],
    }
    if not record.token then
        if redis.call('EXISTS', key) == 1 then
            return nil, 'token'
        end
        return record
    end
    if not whole(record.token) then
        return nil, 'token'
    end
    if not whole(record.attempt) or whole(record.attempt) > LARGEST_ATTEMPT then
        return nil, 'attempt'
    end
    if not record.holder or #record.holder ~= 16 then
        return nil, 'holder'
    end
    if record.fingerprint and #record.fingerprint ~= 32 then
        return nil, 'fingerprint'
    end
    if record.lease_expires then
        if not whole(record.lease_expires) or record.completed or record.expires then
            return nil, 'state'
        end
    elseif not whole(record.completed) or not whole(record.expires) then
        return nil, 'state'
    end
    return record
end

-- The record as it is answered.
local function answer(key, record, millis)
    local result = false
    if record.completed then
        result = redis.call('HGET', key, 'result')
        if not result then
            return { 'corrupt', 'result' }
        end
    end
    return { 'record', decimal(millis), record.token, record.fingerprint, record.holder, record.attempt,
        record.lease_expires, record.completed, record.expires, result, record.held }
end

-- Writes a field of a record that exists. It is deleted first, since that needs no memory: a server that has none left
-- refuses a script at its first write, and never after that.
local function overwrite(key, field, value)
    redis.call('HDEL', key, field)
    redis.call('HSET', key, field, value)
end

-- Writes a field as it is, if the asker waits for replicas (`'1'`). `WAIT` is answered for what the asker's own
-- connection has written, and what is found may have been written over a connection that was lost.
local function write_again(waits, key, field, value)
    if waits == '1' then
        overwrite(key, field, value)
    end
end

-- Notifies the processes that wait. A server that forbids this has done everything else.
local function tell(key)
    redis.pcall('PUBLISH', key, '')
end

