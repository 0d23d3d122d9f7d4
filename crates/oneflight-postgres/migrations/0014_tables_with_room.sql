-- A session keeps the plan of a statement until the table is analyzed. The planner takes a table that was found empty by VACUUM or ANALYZE,
-- and has no page, for one that is best read whole: so each claim of the next minutes would read all that had come since. Of a table that has
-- some pages it knows better, even if nothing is in them. So there are some from the beginning, and VACUUM does not give back what is empty
-- at the end. It takes no lock for that either, for which others would have to wait.
--
-- What belongs to somebody else, such as a policy or a trigger, may forbid it. Plans are as they were then.

ALTER TABLE "{schema}"."{prefix}records" SET (vacuum_truncate = false);
DO $room$
BEGIN
    IF pg_catalog.pg_relation_size('"{schema}"."{prefix}records"'::pg_catalog.regclass) < 40 * 8192 THEN
        INSERT INTO "{schema}"."{prefix}records" (scope, key, token, holder, attempt, claimed_at, lease_expires_at)
            SELECT '', 'room-' || number || repeat('-', 1500), 0, pg_catalog.decode(pg_catalog.repeat('0', 32), 'hex'), 1, -1, 0
            FROM generate_series(1, 160) AS numbers (number);
        DELETE FROM "{schema}"."{prefix}records" WHERE claimed_at = -1;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE DEBUG 'no room is made: %', SQLERRM;
END
$room$;

ALTER TABLE "{schema}"."{prefix}workflows" SET (vacuum_truncate = false);
DO $room$
BEGIN
    IF pg_catalog.pg_relation_size('"{schema}"."{prefix}workflows"'::pg_catalog.regclass) < 40 * 8192 THEN
        INSERT INTO "{schema}"."{prefix}workflows" (scope, key, id, token, holder, name, version, input, tries, started_at)
            SELECT '', 'room-' || number || repeat('-', 1500), 0, 0, pg_catalog.decode(pg_catalog.repeat('0', 32), 'hex'), '', '', '', 0, -1
            FROM generate_series(1, 160) AS numbers (number);
        DELETE FROM "{schema}"."{prefix}workflows" WHERE started_at = -1;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE DEBUG 'no room is made: %', SQLERRM;
END
$room$;

ALTER TABLE "{schema}"."{prefix}steps" SET (vacuum_truncate = false);
DO $room$
BEGIN
    IF pg_catalog.pg_relation_size('"{schema}"."{prefix}steps"'::pg_catalog.regclass) < 40 * 8192 THEN
        INSERT INTO "{schema}"."{prefix}steps" (workflow, name, key, token, recorded_at)
            SELECT -1, '', 'room-' || number || repeat('-', 1500), 0, -1
            FROM generate_series(1, 160) AS numbers (number);
        DELETE FROM "{schema}"."{prefix}steps" WHERE recorded_at = -1;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE DEBUG 'no room is made: %', SQLERRM;
END
$room$;
