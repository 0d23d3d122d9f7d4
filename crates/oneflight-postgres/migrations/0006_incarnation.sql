-- A row that is another one after each crash of the server, and in each server that took its place: unlogged, so that it is
-- gone then, and is written anew. Numbers of transactions that had not come to the disk are given out once more by then. So a
-- number says which transaction is meant as long as this stays, and no longer.
CREATE UNLOGGED TABLE "{schema}"."{prefix}incarnation" (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id       uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO "{schema}"."{prefix}incarnation" DEFAULT VALUES;
-- There is nothing in it to hide and nothing to spoil, and a role that has rights on the records alone begins transactions.
GRANT SELECT, INSERT ON "{schema}"."{prefix}incarnation" TO PUBLIC;
