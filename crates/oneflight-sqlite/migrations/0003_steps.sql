-- What a mutation of steps was started with, beside its record.
CREATE TABLE main.oneflight_workflows (
    -- The token of its first claim.
    id         INTEGER PRIMARY KEY,
    scope      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    -- The token of the claim under which it runs, or ran last, and the version of its code. If the record has another
    -- token, this is stale.
    token      INTEGER NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    input      BLOB    NOT NULL,
    -- How often a completer took it up and did not hand it back.
    tries      INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    -- Whether it waits for a person's decision.
    held       INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    -- Whether its record is in progress, as far as this is its own.
    open       INTEGER NOT NULL DEFAULT 1 CHECK (open IN (0, 1)),
    started_at INTEGER NOT NULL,
    UNIQUE (scope, key)
);
-- A completer looks at what is open, and at nothing else.
CREATE INDEX main.oneflight_workflows_open ON oneflight_workflows (token) WHERE open = 1;

-- In the order of the row ids, steps are in the order in which they were recorded.
CREATE TABLE main.oneflight_steps (
    workflow    INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    -- The token under which it was recorded.
    token       INTEGER NOT NULL,
    input       BLOB    CHECK (length(input) = 32),
    -- Null: it was begun, is to be run once at most, and has not told what it did.
    result      BLOB,
    recorded_at INTEGER NOT NULL,
    UNIQUE (workflow, name, key)
);

CREATE TRIGGER main.oneflight_records_completed AFTER UPDATE OF state ON oneflight_records WHEN NEW.state = 'completed'
BEGIN
    UPDATE oneflight_workflows SET open = 0 WHERE token = NEW.token;
END;

-- Steps go with their record. A takeover replaces the record: where recursive triggers are on, that deletes it, and the
-- token is negative for as long.
CREATE TRIGGER main.oneflight_records_deleted AFTER DELETE ON oneflight_records
BEGIN
    DELETE FROM oneflight_steps WHERE workflow IN
        (SELECT id FROM oneflight_workflows WHERE scope = OLD.scope AND key = OLD.key AND token > 0);
    DELETE FROM oneflight_workflows WHERE scope = OLD.scope AND key = OLD.key AND token > 0;
END;
