-- Draws fencing tokens. No cache: sessions must not draw ahead of each other.
CREATE SEQUENCE "{schema}"."{prefix}tokens" AS bigint CACHE 1;

-- All times are milliseconds since the Unix epoch, on the server's clock. Some room is left in each page, so that
-- renewing a claim changes a row in place. Result sizes vary, and dead rows are few and short-lived if they are purged
-- often.
CREATE TABLE "{schema}"."{prefix}records" (
    scope            text   COLLATE "C" NOT NULL,
    key              text   COLLATE "C" NOT NULL,
    token            bigint NOT NULL,
    fingerprint      bytea  CHECK (length(fingerprint) = 32),
    holder           bytea  NOT NULL CHECK (length(holder) = 16),
    attempt          bigint NOT NULL CHECK (attempt > 0),
    -- The token of the holder whose claim, with its lease over, was taken over.
    took_over        bigint,
    claimed_at       bigint NOT NULL,
    lease_expires_at bigint,
    completed_at     bigint,
    expires_at       bigint,
    result           bytea,
    PRIMARY KEY (scope, key),
    CHECK ((completed_at IS NULL) = (lease_expires_at IS NOT NULL)),
    CHECK ((completed_at IS NULL) = (result IS NULL)),
    CHECK ((completed_at IS NULL) = (expires_at IS NULL))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- Purging looks at what is past its retention, and at nothing else.
CREATE INDEX "{prefix}records_by_expiry" ON "{schema}"."{prefix}records" (expires_at) WHERE expires_at IS NOT NULL;
-- Few rows of many. It does not name what a renewal changes.
CREATE INDEX "{prefix}records_in_progress" ON "{schema}"."{prefix}records" (token) WHERE completed_at IS NULL;
