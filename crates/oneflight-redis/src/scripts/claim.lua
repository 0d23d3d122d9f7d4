-- Takes rights to execute, or says why not: `store::decide`, with what follows from it.
--
-- KEYS  of each claim: the record, the last token of its shard, what is in progress in its shard
-- ARGV  whether the asker waits for replicas; of each claim: lease in milliseconds, from whom may be taken over (`never`,
--       `expired`, a token), the largest token of the shard that the asker knows, the tail of the record
--
-- A claim of what is new is answered with its token alone. Of several claims, each is answered for itself; if all are of
-- what is new, with their tokens in a row.

local KEYS, ARGV, LARGEST = KEYS, ARGV, '8999999999999999'
local waits = ARGV[1] == '1'
local time = redis.call('TIME')
local millis = time[1] * 1000 + floor(time[2] / 1000)
-- Texts of one length compare as their numbers do.
local micros = sub('000000000' .. time[1], -10) .. sub('00000' .. time[2], -6)

local function claim(key, last_token, in_progress, lease, takeover, known, tail)
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
        token = decimal(least + 1)
        if token > LARGEST then
            return { 'corrupt', 'last token' }
        end
    end
    local last = redis.pcall('SET', last_token, token, 'GET')
    if type(last) == 'table' then
        return find(last.err, 'WRONGTYPE') and { 'corrupt', 'last token' } or last
    end
    if last and not (#last == 16 and last < token and find(last, '^%d+$')) then
        local counted = #last <= 16 and find(last, '^%d+$') and tonumber(last)
        local next = counted and math.max(counted + 1, tonumber(token))
        token = next and decimal(next)
        if not token or token > LARGEST then
            redis.call('SET', last_token, last)
            return { 'corrupt', 'last token' }
        end
        last = decimal(counted)
        redis.call('SET', last_token, token)
    end
    -- An error of one claim is not to end the script, which others are in. Before the record, so that there is none of what
    -- was refused.
    local listed = redis.pcall('ZADD', in_progress, token, key)
    if type(listed) == 'table' then
        return find(listed.err, 'WRONGTYPE') and { 'corrupt', 'list' } or listed
    end
    redis.call('SET', key, state .. token .. attempt .. decimal(millis + lease) .. '0000000000000000' .. tail)
    local is_set_back = (last or '0000000000000000') < known
    if record or is_set_back then
        return { 'granted', token, attempt, took_over, is_set_back and '1' or '0' }
    end
    return token
end

if #KEYS == 3 then
    return claim(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
end
local answers, all_new = {}, true
for number = 1, #KEYS / 3 do
    local key, argument = 3 * number, 4 * number
    local answer = claim(KEYS[key - 2], KEYS[key - 1], KEYS[key],
        ARGV[argument - 2], ARGV[argument - 1], ARGV[argument], ARGV[argument + 1])
    answers[number], all_new = answer, all_new and type(answer) == 'string'
end
return all_new and table.concat(answers) or answers
