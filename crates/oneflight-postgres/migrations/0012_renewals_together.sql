-- Renews many leases. Takes scope, key, token, and lease of each. Answers with a digit for each: 2 if it is renewed, 0 if the claim is
-- outdated, and 1 if it was left alone, to be renewed by itself: another transaction has the record locked or has just changed it, or the
-- claim was named twice.
--
-- * `locked` are the records that can be changed now, which this locks. None is waited for.
-- * What is not renewed is outdated if there was no such claim when the statement began: there will be none later.
--
-- Each record is looked up by itself (LATERAL): a join may read the whole index of what is in progress, with what has been there since the
-- oldest snapshot. It is changed at its place, where it is locked, and without a scan of the table, as what is completed together.
CREATE OR REPLACE PROCEDURE "{schema}"."{prefix}renew_together"(
    text[], text[], bigint[], bigint[], INOUT a0 text
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding pg_catalog.text := pg_catalog.current_setting('client_encoding');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL seq_page_cost = 1000; SET LOCAL jit = off;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    SET LOCAL plan_cache_mode = force_generic_plan;
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    asked AS MATERIALIZED (
        SELECT scope, key, token, lease, place
        FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS asked (scope, key, token, lease, place)),
    locked AS MATERIALIZED (
        SELECT r.at, lease, place
        FROM asked a CROSS JOIN LATERAL (
            SELECT r.ctid AS at FROM "{schema}"."{prefix}records" r
            WHERE r.scope = a.scope AND r.key = a.key AND r.token = a.token AND r.completed_at IS NULL
            FOR NO KEY UPDATE SKIP LOCKED) r),
    renewed AS (
        UPDATE "{schema}"."{prefix}records" r
        SET lease_expires_at = greatest(r.lease_expires_at, now + lease)
        FROM locked, instant
        WHERE r.ctid = locked.at
        RETURNING place),
    told AS (
        SELECT place, '0' AS digit FROM asked
        UNION ALL
        SELECT place, '1' FROM asked a CROSS JOIN LATERAL (
            SELECT FROM "{schema}"."{prefix}records" r
            WHERE r.scope = a.scope AND r.key = a.key AND r.token = a.token AND r.completed_at IS NULL OFFSET 0) r
        UNION ALL
        SELECT place, '2' FROM renewed),
    each AS (
        SELECT place, pg_catalog.max(digit) AS digit FROM told GROUP BY place)
    SELECT pg_catalog.string_agg(digit, '' ORDER BY place) INTO a0 FROM each;
END
$procedure$;
