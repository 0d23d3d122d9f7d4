-- All times are milliseconds since the Unix epoch, on the database's clock.
CREATE TABLE main.oneflight_records (
    -- A claim writes a new row in place of the one that exists. AUTOINCREMENT draws a number that is larger than all
    -- before it, those of deleted rows included.
    token            INTEGER PRIMARY KEY AUTOINCREMENT,
    scope            TEXT    NOT NULL,
    key              TEXT    NOT NULL,
    fingerprint      BLOB    CHECK (length(fingerprint) = 32),
    holder           BLOB    NOT NULL CHECK (length(holder) = 16),
    attempt          INTEGER NOT NULL CHECK (attempt > 0),
    state            TEXT    NOT NULL CHECK (state IN ('in_progress', 'completed')),
    claimed_at       INTEGER NOT NULL,
    lease_expires_at INTEGER,
    completed_at     INTEGER,
    expires_at       INTEGER,
    result           BLOB,
    UNIQUE (scope, key),
    CHECK ((state = 'in_progress') = (lease_expires_at IS NOT NULL)),
    CHECK ((state = 'completed') = (result IS NOT NULL AND completed_at IS NOT NULL AND expires_at IS NOT NULL))
);
CREATE INDEX main.oneflight_records_by_expiry ON oneflight_records (expires_at) WHERE expires_at IS NOT NULL;
