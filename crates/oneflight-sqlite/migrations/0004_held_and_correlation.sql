-- Whether an operator has to decide before a request in doubt is executed again, whatever the policy. A mutation of steps is
-- held in its own row.
ALTER TABLE main.oneflight_records ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1));
-- The id of the request that claimed, if it had one.
ALTER TABLE main.oneflight_records ADD COLUMN correlation_id TEXT;
