-- The procedure before this one set a lease to whatever was asked for.
DROP PROCEDURE IF EXISTS "{schema}"."{prefix}renew"(text, text, bigint, bigint, bigint, text, INOUT bigint, INOUT text);

-- Takes scope, key, token, and lease.
CREATE PROCEDURE "{schema}"."{prefix}renew"(
    text, text, bigint, bigint, INOUT a0 bigint
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    changed AS (
        UPDATE "{schema}"."{prefix}records"
        SET lease_expires_at = greatest(lease_expires_at, now + $4)
        FROM instant
        WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
        RETURNING token)
    SELECT token INTO a0 FROM changed;
END
$procedure$;

-- Takes scope, key, token, what is to be left of the lease, and the number of those that watch with their channel.
CREATE PROCEDURE "{schema}"."{prefix}end_lease"(
    text, text, bigint, bigint, bigint, text, INOUT a0 bigint, INOUT a1 text
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    changed AS (
        UPDATE "{schema}"."{prefix}records"
        SET lease_expires_at = now + $4
        FROM instant
        WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
        RETURNING token)
    SELECT token, CASE WHEN $4 = 0 THEN CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock($5)
             THEN pg_catalog.pg_notify($6, $5::text)::text END END INTO a0, a1
    FROM changed;
END
$procedure$;
