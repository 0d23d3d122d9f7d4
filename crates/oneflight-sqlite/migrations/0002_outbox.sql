-- All times are milliseconds since the Unix epoch, on the database's clock.

-- The last position and the last token that were drawn.
CREATE TABLE main.oneflight_outbox (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    position INTEGER NOT NULL,
    token    INTEGER NOT NULL
);
INSERT INTO main.oneflight_outbox VALUES (1, 0, 0);

-- SQLite has one writer, so positions are in the order of commits. A message that comes back has another position and
-- the same id. State 0: to be delivered. 1: parked. 2: a dead letter. 3: ended.
CREATE TABLE main.oneflight_messages (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    position       INTEGER NOT NULL UNIQUE,
    state          INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    shard          INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    taken_by       INTEGER,
    blocks         INTEGER NOT NULL,
    sent_at        INTEGER NOT NULL,
    due_at         INTEGER,
    expires_at     INTEGER,
    ended_at       INTEGER,
    deduplicated   INTEGER NOT NULL,
    topic          TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    ordering_key   TEXT,
    content_type   TEXT    NOT NULL,
    correlation_id TEXT,
    traceparent    TEXT,
    headers        TEXT,
    done           TEXT,
    error          TEXT,
    payload        BLOB    NOT NULL
);
CREATE INDEX main.oneflight_messages_ring ON oneflight_messages (position) WHERE state = 0;
CREATE INDEX main.oneflight_messages_due ON oneflight_messages (due_at) WHERE state = 1;
CREATE INDEX main.oneflight_messages_dead ON oneflight_messages (id) WHERE state = 2;
CREATE INDEX main.oneflight_messages_blocks ON oneflight_messages (shard) WHERE blocks = 1;
CREATE INDEX main.oneflight_messages_ended ON oneflight_messages (ended_at) WHERE state = 3;
CREATE UNIQUE INDEX main.oneflight_messages_key ON oneflight_messages (key, topic) WHERE deduplicated = 1;

CREATE TABLE main.oneflight_relays (
    token INTEGER PRIMARY KEY,
    team  TEXT    NOT NULL,
    beats INTEGER NOT NULL
);
CREATE TABLE main.oneflight_shards (
    team  TEXT    NOT NULL,
    shard INTEGER NOT NULL,
    token INTEGER,
    PRIMARY KEY (team, shard)
) WITHOUT ROWID;
