-- Whether an operator has to decide before a request in doubt is executed again, whatever the policy. A mutation of steps is
-- held in its own row. It is 0 or 1; to check that, SQLite would read all rows here.
ALTER TABLE main.oneflight_records ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
-- The id of the request that claimed, if it had one.
ALTER TABLE main.oneflight_records ADD COLUMN correlation_id TEXT;
