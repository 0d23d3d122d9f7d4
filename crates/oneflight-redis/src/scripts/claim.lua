-- Takes rights to execute, or says why not: `store::decide`, with what follows from it.
--
-- KEYS  of each claim: the record, what is in progress in its shard
-- ARGV  whether the asker waits for replicas; of each claim: lease in milliseconds, from whom may be taken over (`never`,
--       `expired`, a token), the largest token of the shard that the asker knows, the tail of the record
--
-- A claim of what is new is answered with its token alone. Of several claims, each is answered for itself; if all are of
-- what is new, with their tokens in a row.

local KEYS, ARGV, LARGEST, NOTHING = KEYS, ARGV, 8999999999999999, '0000000000000000'
-- The member of the list whose score is the last token of the shard. No key of a record begins with this byte, so it is the
-- last of those with the same score.
local LAST = '\255'
local waits = ARGV[1] == '1'
local time = redis.call('TIME')
local millis = time[1] * 1000 + floor(time[2] / 1000)
-- Texts of one length compare as their numbers do.
local micros = sub('000000000' .. time[1], -10) .. sub('00000' .. time[2], -6)

local function claim(key, in_progress, lease, takeover, known, tail)
    local record, at = read(key)
    if not record and at then
        return { 'corrupt', at }
    end
    local state, attempt, took_over, least = 'p', '0000000001', false, known
    if record and sub(record, 2, 17) > known then
        least = sub(record, 2, 17)
    end
    if record and not (sub(record, 1, 1) == 'c' and tonumber(sub(record, 44, 59)) <= millis) then
        -- The fingerprint, and whether there is one.
        local print = sub(tail, 17, sub(tail, 17, 17) == '1' and 49 or 17)
        if sub(record, 76, 75 + #print) ~= print then
            return { 'conflict' }
        end
        if sub(record, 1, 1) == 'c' then
            -- Written again, as it is, for an asker that waits for replicas. `WAIT` is answered for what its own connection
            -- has written, and what is found may have been written over a connection that was lost.
            if waits then
                local kept = redis.pcall('PEXPIREAT', key, tonumber(sub(record, 44, 59)))
                if type(kept) == 'table' then
                    return kept
                end
            end
            return { 'record', decimal(millis), record }
        end
        local ends, token, is_own = sub(record, 28, 43), sub(record, 2, 17), sub(record, 60, 75) == sub(tail, 1, 16)
        local remaining = ends - millis
        state, attempt = sub(record, 1, 1), sub(record, 18, 27)
        if is_own and remaining > 0 then
            local failed = waits and overwrite(key, 28, ends)
            if failed then
                return failed
            end
            return { 'granted', token, attempt, false, '0' }
        elseif is_own and state ~= 'h' then
            -- It asks again too late, for the same attempt.
        elseif remaining > 0 then
            return { 'in progress', decimal(remaining), attempt }
        elseif takeover ~= token and (state == 'h' or takeover ~= 'expired') then
            return { 'in doubt', token, attempt }
        else
            attempt = format('%010.0f', math.min(attempt + 1, LARGEST_ATTEMPT))
            took_over = token
        end
        -- A request without an id keeps the one that there was.
        if sub(tail, 17 + #print) == '000' then
            tail = sub(tail, 1, 16 + #print) .. sub(record, 76 + #print)
        end
    end

    -- The clock, unless it is behind what is known.
    local token = micros
    if token <= least then
        if least + 1 > LARGEST then
            return { 'corrupt', 'last token' }
        end
        token = decimal(least + 1)
    end
    -- Moves the last token of the shard on to what the asker knows, which changes it if the server has forgotten that; then to
    -- the new one; and lists the record. One call does all three, and tells how many it has changed: two, unless the server has
    -- forgotten. Fewer, if it has counted further than either, or lists the key further, since a record that is gone left it there.
    -- An error of one claim is not to end the script, which others are in. Before the record, so that there is none of what was
    -- refused.
    local moved = redis.pcall('ZADD', in_progress, 'GT', 'CH', known, LAST, token, LAST, token, key)
    if type(moved) == 'table' then
        return find(moved.err, 'WRONGTYPE') and { 'corrupt', 'list' } or moved
    end
    if moved < 2 then
        local last = redis.call('ZADD', in_progress, 'INCR', '1', LAST)
        if tonumber(last) > LARGEST then
            -- All is listed as before.
            redis.call('ZADD', in_progress, 'INCR', '-1', LAST)
            if record and sub(record, 1, 1) ~= 'c' then
                redis.call('ZADD', in_progress, sub(record, 2, 17), key)
            else
                redis.call('ZREM', in_progress, key)
            end
            return { 'corrupt', 'last token' }
        end
        token = decimal(last)
        redis.call('ZADD', in_progress, token, key)
    end
    redis.call('SET', key, state .. token .. attempt .. decimal(millis + lease) .. NOTHING .. tail)
    local is_set_back = moved == 3 and known ~= NOTHING
    if record or is_set_back then
        return { 'granted', token, attempt, took_over, is_set_back and '1' or '0' }
    end
    return token
end

if #KEYS == 2 then
    return claim(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
end
local answers, all_new = {}, true
for number = 1, #KEYS / 2 do
    local key, argument = 2 * number, 4 * number
    local answer = claim(KEYS[key - 1], KEYS[key],
        ARGV[argument - 2], ARGV[argument - 1], ARGV[argument], ARGV[argument + 1])
    answers[number], all_new = answer, all_new and type(answer) == 'string'
end
return all_new and table.concat(answers) or answers
