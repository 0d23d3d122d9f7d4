-- Topics of which nothing is delivered until they are resumed, and since when, in milliseconds since the Unix epoch.
CREATE TABLE "{schema}"."{prefix}paused" (
    topic text   COLLATE "C" PRIMARY KEY,
    since bigint NOT NULL
);
