-- Topics of which nothing is delivered until they are resumed, and since when, in milliseconds since the Unix epoch.
CREATE TABLE "{schema}"."{prefix}paused" (
    topic text   COLLATE "C" PRIMARY KEY,
    since bigint NOT NULL
);
-- Relays of roles that were given rights on each table before this one existed read it with each beat.
GRANT SELECT ON "{schema}"."{prefix}paused" TO PUBLIC;
