-- Whether an operator has to decide before a request in doubt is executed again, whatever the policy.
ALTER TABLE "{schema}"."{prefix}records" ADD COLUMN held boolean NOT NULL DEFAULT false;

-- Each procedure is an error inside of a transaction, by its COMMIT: what it answers is then known to be committed. In
-- place of an answer there are nulls.

-- Takes scope, key, fingerprint, holder, lease, takeover (a token, -1 for whichever has expired, or another number), the
-- number of the claim's lock, and whether the request is to be held. Reads, decides, and writes what follows from that:
--
-- * `seen` is the record as it was when the statement began. If it is an answer, nothing else happens.
-- * `drawn` is empty unless `seen` may be claimed *and* no other claim of this identity is being decided about.
-- * `granted` writes. It decides once more, on the row as it is by then: a holder may have come back since. If it may
--   not be claimed any more, it is written as it was, which makes this statement answer with it.
--
-- Answers with the instant, the record, and whether this claim wrote it.
CREATE PROCEDURE "{schema}"."{prefix}claim"(
    text, text, bytea, bytea, bigint, bigint, bigint, boolean, INOUT a0 bigint, INOUT a1 bytea, INOUT a2 bigint,
    INOUT a3 bytea, INOUT a4 bigint, INOUT a5 bigint, INOUT a6 bigint, INOUT a7 bigint, INOUT a8 bigint,
    INOUT a9 bytea, INOUT a10 boolean, INOUT a11 boolean
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
    seen AS MATERIALIZED (
        SELECT fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held,
               ((r.completed_at IS NOT NULL AND r.expires_at <= now)
                OR (r.completed_at IS NULL AND r.fingerprint IS NOT DISTINCT FROM $3 AND r.lease_expires_at <= now
                    AND ($6 = r.token OR (NOT r.held AND ($6 = -1 OR r.holder = $4))))) IS TRUE AS grantable
        FROM "{schema}"."{prefix}records" r, instant
        WHERE scope = $1 AND key = $2),
    drawn AS MATERIALIZED (
        SELECT pg_catalog.nextval('"{schema}"."{prefix}tokens"'::pg_catalog.regclass) AS token
        WHERE CASE WHEN coalesce((SELECT grantable FROM seen), true)
                   THEN pg_catalog.pg_try_advisory_xact_lock($7)
                   ELSE false END),
    granted AS (
        INSERT INTO "{schema}"."{prefix}records" AS r
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held)
        SELECT $1, $2, token, $3, $4, 1, now, now + $5, $8 FROM drawn, instant
        ON CONFLICT (scope, key) DO UPDATE
        SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at, expires_at, result, held)
          = (SELECT EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder,
                    CASE WHEN (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at) THEN 1
                         WHEN r.holder = EXCLUDED.holder AND NOT r.held THEN r.attempt
                         ELSE least(r.attempt + 1, 4294967295) END,
                    CASE WHEN NOT (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
                          AND (r.holder <> EXCLUDED.holder OR r.held) THEN r.token END,
                    EXCLUDED.claimed_at, EXCLUDED.lease_expires_at, NULL::bigint, NULL::bigint, NULL::bytea,
                    EXCLUDED.held
                    OR (r.held AND NOT (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at))
             WHERE ((r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
                    OR (r.completed_at IS NULL AND r.fingerprint IS NOT DISTINCT FROM $3 AND r.lease_expires_at <= EXCLUDED.claimed_at
                        AND ($6 = r.token OR (NOT r.held AND ($6 = -1 OR r.holder = $4))))) IS TRUE
             UNION ALL
             SELECT r.token, r.fingerprint, r.holder, r.attempt, r.took_over, r.claimed_at, r.lease_expires_at,
                    r.completed_at, r.expires_at, r.result, r.held
             WHERE NOT ((r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
                        OR (r.completed_at IS NULL AND r.fingerprint IS NOT DISTINCT FROM $3 AND r.lease_expires_at <= EXCLUDED.claimed_at
                            AND ($6 = r.token OR (NOT r.held AND ($6 = -1 OR r.holder = $4))))) IS TRUE)
        RETURNING fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held)
    SELECT now, record.*, record.token = drawn.token INTO a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11
    FROM instant LEFT JOIN drawn ON true LEFT JOIN (
        SELECT fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held FROM granted
        UNION ALL
        SELECT fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held FROM seen
        WHERE NOT EXISTS (SELECT FROM granted)) record ON true;
END
$procedure$;

-- Takes scope, key, token, result, retention, and the number of those that watch with their channel.
CREATE PROCEDURE "{schema}"."{prefix}complete"(
    text, text, bigint, bytea, bigint, bigint, text, INOUT a0 bigint, INOUT a1 text
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
        SET lease_expires_at = NULL, result = $4, completed_at = now, expires_at = now + $5, held = false
        FROM instant
        WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
        RETURNING token)
    SELECT token, CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock($6)
             THEN pg_catalog.pg_notify($7, $6::text)::text END INTO a0, a1
    FROM changed;
END
$procedure$;

-- Takes scope, key, token, and the number of those that watch with their channel.
CREATE PROCEDURE "{schema}"."{prefix}release"(
    text, text, bigint, bigint, text, INOUT a0 bigint, INOUT a1 text
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
    WITH changed AS (
        DELETE FROM "{schema}"."{prefix}records"
        WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
        RETURNING token)
    SELECT token, CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock($4)
             THEN pg_catalog.pg_notify($5, $4::text)::text END INTO a0, a1
    FROM changed;
END
$procedure$;

-- Takes scope and key. Answers with the instant and the record.
CREATE PROCEDURE "{schema}"."{prefix}load"(
    text, text, INOUT a0 bigint, INOUT a1 bytea, INOUT a2 bigint, INOUT a3 bytea, INOUT a4 bigint, INOUT a5 bigint,
    INOUT a6 bigint, INOUT a7 bigint, INOUT a8 bigint, INOUT a9 bytea, INOUT a10 boolean
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
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now)
    SELECT now, fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held
    INTO a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10
    FROM "{schema}"."{prefix}records", instant
    WHERE scope = $1 AND key = $2;
END
$procedure$;

-- Takes the most rows, and answers how many were deleted. Rows that others have locked are left to them, and to the
-- next time. The instant is a scalar here: as such it bounds the index, which would otherwise be read to its end for
-- want of a full batch.
CREATE PROCEDURE "{schema}"."{prefix}purge"(
    bigint, INOUT a0 bigint
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
    purged AS (
        DELETE FROM "{schema}"."{prefix}records"
        WHERE ctid = ANY (ARRAY(
            SELECT r.ctid FROM "{schema}"."{prefix}records" r
            WHERE r.expires_at <= (SELECT now FROM instant)
            ORDER BY r.expires_at LIMIT $1 FOR UPDATE OF r SKIP LOCKED))
        RETURNING 1)
    SELECT count(*) INTO a0 FROM purged;
END
$procedure$;
