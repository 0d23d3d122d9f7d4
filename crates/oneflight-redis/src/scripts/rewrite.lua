-- What stands before the scripts that change a record in progress.

-- Writes into the head of a record that is in progress, and answers with the error, if that may not be done. `PERSIST` changes
-- nothing, since that does not expire. It needs no memory: a server that has none left refuses a script at its first write, and
-- never after that.
local function overwrite(key, place, text)
    local done = redis.pcall('PERSIST', key)
    if type(done) ~= 'table' then
        done = redis.pcall('SETRANGE', key, place - 1, text)
    end
    return type(done) == 'table' and done
end

