-- The id of the request that claimed, if it had one.
ALTER TABLE "{schema}"."{prefix}records" ADD COLUMN correlation_id text COLLATE "C";

-- Takes what the procedure of the same name takes, and then the id of the request that claims, or an empty text. Where there is none,
-- a claim that is taken over keeps the id that it had. All else is as it was.
CREATE PROCEDURE "{schema}"."{prefix}claim"(
    text, text, bytea, bytea, bigint, bigint, bigint, boolean, text, INOUT a0 bigint, INOUT a1 bytea, INOUT a2 bigint,
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
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held, correlation_id)
        SELECT $1, $2, token, $3, $4, 1, now, now + $5, $8, nullif($9, '') FROM drawn, instant
        ON CONFLICT (scope, key) DO UPDATE
        SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at, expires_at, result, held,
             correlation_id)
          = (SELECT EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder,
                    CASE WHEN (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at) THEN 1
                         WHEN r.holder = EXCLUDED.holder AND NOT r.held THEN r.attempt
                         ELSE least(r.attempt + 1, 4294967295) END,
                    CASE WHEN NOT (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
                          AND (r.holder <> EXCLUDED.holder OR r.held) THEN r.token END,
                    EXCLUDED.claimed_at, EXCLUDED.lease_expires_at, NULL::bigint, NULL::bigint, NULL::bytea,
                    EXCLUDED.held
                    OR (r.held AND NOT (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)),
                    coalesce(EXCLUDED.correlation_id,
                             CASE WHEN r.completed_at IS NULL THEN r.correlation_id END)
             WHERE ((r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
                    OR (r.completed_at IS NULL AND r.fingerprint IS NOT DISTINCT FROM $3 AND r.lease_expires_at <= EXCLUDED.claimed_at
                        AND ($6 = r.token OR (NOT r.held AND ($6 = -1 OR r.holder = $4))))) IS TRUE
             UNION ALL
             SELECT r.token, r.fingerprint, r.holder, r.attempt, r.took_over, r.claimed_at, r.lease_expires_at,
                    r.completed_at, r.expires_at, r.result, r.held, r.correlation_id
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

-- Processes of the version before know of no ids.
CREATE OR REPLACE PROCEDURE "{schema}"."{prefix}claim"(
    text, text, bytea, bytea, bigint, bigint, bigint, boolean, INOUT a0 bigint, INOUT a1 bytea, INOUT a2 bigint,
    INOUT a3 bytea, INOUT a4 bigint, INOUT a5 bigint, INOUT a6 bigint, INOUT a7 bigint, INOUT a8 bigint,
    INOUT a9 bytea, INOUT a10 boolean, INOUT a11 boolean
) LANGUAGE plpgsql AS $procedure$
BEGIN
    CALL "{schema}"."{prefix}claim"($1, $2, $3, $4, $5, $6, $7, $8, '',
        a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11);
END
$procedure$;

-- Takes what the procedure of the same name takes, and then the id of the request, which is for the claim.
CREATE PROCEDURE "{schema}"."{prefix}begin_steps"(
    text, text, bytea, bytea, bigint, bigint, bigint, text, text, text, bytea, text, bigint, text, INOUT a0 bigint,
    INOUT a1 bytea, INOUT a2 bigint, INOUT a3 bytea, INOUT a4 bigint, INOUT a5 bigint, INOUT a6 bigint, INOUT a7 bigint,
    INOUT a8 bigint, INOUT a9 bytea, INOUT a10 boolean, INOUT a11 boolean, INOUT a12 bigint, INOUT a13 text,
    INOUT a14 text, INOUT a15 bytea, INOUT a16 bigint, INOUT a17 boolean, INOUT a18 text, INOUT a19 bigint
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
    there record;
    goes_on boolean := false;
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    SELECT w.token INTO a19
    FROM "{schema}"."{prefix}workflows" w JOIN "{schema}"."{prefix}records" r USING (scope, key, token)
    WHERE w.scope = $1 AND w.key = $2 AND r.completed_at IS NULL AND ($6 = -1 OR $6 = w.token)
      AND ($13 = 2 OR (NOT w.held AND w.name = $8 AND $10::jsonb ? w.version));
    a19 := coalesce(a19, CASE $13 WHEN 2 THEN $6 ELSE 0 END);
    IF $13 = 1 AND a19 = 0 THEN
        -- Perhaps it asks again, and has the claim already: then it is answered with it below.
        CALL "{schema}"."{prefix}load"($1, $2, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10);
        a11 := false;
    ELSE
        CALL "{schema}"."{prefix}claim"($1, $2, $3, $4, $5, a19, $7, false, $14,
            a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11);
    END IF;
    IF a11 THEN
        -- What must not be waited for is looked at here: the UPDATE below would wait for a stale holder's transaction,
        -- and a step that comes after the record was claimed would wait for this one (FOR KEY SHARE).
        SELECT id, token, holder, held INTO there FROM "{schema}"."{prefix}workflows"
        WHERE scope = $1 AND key = $2 FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            goes_on := there.token = a5 OR (a5 IS NULL AND there.holder = $4);
        END IF;
        -- It was not held when its token was read, and may have been since.
        IF ($13 = 1 AND goes_on IS NOT TRUE) OR (there IS NULL AND EXISTS (
            SELECT FROM "{schema}"."{prefix}workflows" WHERE scope = $1 AND key = $2))
            OR (goes_on AND there.held AND $13 <> 2 AND a19 > 0)
        THEN
            ROLLBACK;
            CALL "{schema}"."{prefix}load"($1, $2, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10);
            a11 := false;
            RETURN;
        END IF;
        IF goes_on IS TRUE AND $13 = 2 THEN
            UPDATE "{schema}"."{prefix}workflows" SET token = a2, holder = $4, held = true
            WHERE scope = $1 AND key = $2;
        ELSIF goes_on IS TRUE THEN
            UPDATE "{schema}"."{prefix}workflows"
            SET token = a2, holder = $4, version = $9, tries = tries + $13
            WHERE scope = $1 AND key = $2;
        ELSIF $13 <> 2 THEN
            DELETE FROM "{schema}"."{prefix}steps" WHERE workflow = there.id;
            DELETE FROM "{schema}"."{prefix}workflows" WHERE scope = $1 AND key = $2;
            INSERT INTO "{schema}"."{prefix}workflows"
                (scope, key, id, token, holder, name, version, input, tries, started_at)
            VALUES ($1, $2, a2, a2, $4, $8, $9, $11, $13, a0);
            INSERT INTO "{schema}"."{prefix}steps" (workflow, name, key, token, input, result, recorded_at)
            SELECT a2, step->>0, step->>1, a2, decode(step->>2, 'hex'), decode(step->>3, 'hex'), a0
            FROM jsonb_array_elements($12::jsonb) WITH ORDINALITY AS seeds(step, place) ORDER BY place;
        END IF;
    END IF;
    SELECT w.token, w.name, w.version, w.input, w.tries, w.held, (
        SELECT coalesce(jsonb_agg(jsonb_build_array(s.name, s.key, encode(s.input, 'hex'), encode(s.result, 'hex'))
                                  ORDER BY s.number), '[]')::text
        FROM "{schema}"."{prefix}steps" s WHERE s.workflow = w.id)
    INTO a12, a13, a14, a15, a16, a17, a18
    FROM "{schema}"."{prefix}workflows" w
    WHERE w.scope = $1 AND w.key = $2 AND w.token = a2 AND a3 = $4 AND a7 IS NULL;
END
$procedure$;

-- The same for them.
CREATE OR REPLACE PROCEDURE "{schema}"."{prefix}begin_steps"(
    text, text, bytea, bytea, bigint, bigint, bigint, text, text, text, bytea, text, bigint, INOUT a0 bigint,
    INOUT a1 bytea, INOUT a2 bigint, INOUT a3 bytea, INOUT a4 bigint, INOUT a5 bigint, INOUT a6 bigint, INOUT a7 bigint,
    INOUT a8 bigint, INOUT a9 bytea, INOUT a10 boolean, INOUT a11 boolean, INOUT a12 bigint, INOUT a13 text,
    INOUT a14 text, INOUT a15 bytea, INOUT a16 bigint, INOUT a17 boolean, INOUT a18 text, INOUT a19 bigint
) LANGUAGE plpgsql AS $procedure$
BEGIN
    CALL "{schema}"."{prefix}begin_steps"($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '',
        a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19);
END
$procedure$;
