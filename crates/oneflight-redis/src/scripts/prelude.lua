-- What stands before every script: how a record is kept.
--
-- A record is a string. Its head has places of a fixed width, and the numbers in them are decimal:
--
--   1       p in progress, h in progress and held, c completed
--   2-17    token
--   18-27   attempt
--   28-43   when the lease ends, or when it was completed; in milliseconds
--   44-59   when it expires; zeros while it is in progress
--   60-75   holder
--   76      1 and the 32 bytes of the fingerprint, or 0
--   then    three digits and so many bytes of the id of the request, and, of what is completed, the result
--
-- The bytes from the holder to the id are the record's tail, which a claim brings along. Numbers are below 9 * 10^15: that
-- far, Lua counts exactly. All keys that a script is given lie in one shard, hence in one slot.
--
-- The server has time for nothing else while a script runs. What costs most is a call of a command, of which a script has
-- as few as it can; after that come functions that are made, and texts.

local HEAD = '^[phc][0-8]%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-8]%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-8]%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d'
local LARGEST_ATTEMPT = 4294967295
local find, sub, format, floor = string.find, string.sub, string.format, math.floor

local function decimal(number)
    -- Not with one `%d`, which has 32 bits on some servers.
    return format('%07d%09d', floor(number / 1000000000), number % 1000000000)
end

-- Answers with the record and where its result begins, with nothing if it is absent, or with nothing and what is wrong.
local function read(key)
    local record = redis.pcall('GET', key)
    if not record then
        return false
    end
    if type(record) == 'table' then
        -- Whatever else it is, it will be in the way of the next command too.
        return false, 'key'
    end
    if not find(record, HEAD) then
        return false, 'head'
    end
    if tonumber(sub(record, 18, 27)) > LARGEST_ATTEMPT then
        return false, 'attempt'
    end
    local print = sub(record, 76, 76)
    local at = print == '1' and 109 or print == '0' and 77
    at = at and find(record, '^%d%d%d', at) and at + 3 + sub(record, at, at + 2)
    if not at then
        return false, 'tail'
    end
    if sub(record, 1, 1) == 'c' then
        if #record < at then
            return false, 'result'
        end
    elseif #record ~= at - 1 then
        return false, 'tail'
    end
    return record, at
end

