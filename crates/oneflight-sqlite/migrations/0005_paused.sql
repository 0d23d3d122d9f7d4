-- Topics of which nothing is delivered until they are resumed, and since when, in milliseconds since the Unix epoch.
CREATE TABLE main.oneflight_paused (
    topic TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) WITHOUT ROWID;

-- What has not ended is counted by topic and state, and listed in the order of its ids, without a look at the messages.
CREATE INDEX main.oneflight_messages_topics ON oneflight_messages (topic, state) WHERE state < 3;
