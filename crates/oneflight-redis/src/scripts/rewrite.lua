-- What stands before the scripts that change a record in progress.

-- Writes into the head of a record that is in progress. `PERSIST` changes nothing, since that does not expire. It needs no
-- memory: a server that has none left refuses a script at its first write, and never after that.
local function overwrite(key, place, text)
    redis.call('PERSIST', key)
    redis.call('SETRANGE', key, place - 1, text)
end

