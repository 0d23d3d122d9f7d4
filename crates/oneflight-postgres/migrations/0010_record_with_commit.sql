-- Both are called in the transaction of the work, in one message with its COMMIT: if nothing is recorded, they fail, and the server ignores the
-- rest of the message. They do what the statements do that record without it, and are functions so that each session plans that once.

-- Records the result of a request. Takes scope, key, fingerprint, holder, attempt, the token that it took over, retention, result, the number of
-- those that watch, the number of the transaction, the token that was read, the id of the request, or an empty text, and the channel.
CREATE OR REPLACE FUNCTION "{schema}"."{prefix}record_result"(
    text, text, bytea, bytea, bigint, bigint, bigint, bytea, bigint, text, bigint, text, text
) RETURNS boolean LANGUAGE plpgsql AS $function$
DECLARE
    recorded boolean;
BEGIN
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    written AS (
        INSERT INTO "{schema}"."{prefix}records" AS r
            (scope, key, token, fingerprint, holder, attempt, took_over, claimed_at, completed_at, expires_at, result, correlation_id)
        SELECT $1, $2, pg_catalog.nextval('"{schema}"."{prefix}tokens"'::pg_catalog.regclass), $3, $4, $5, $6, now, now,
               now + $7, $8, nullif($12, '')
        FROM instant WHERE pg_catalog.pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM $10
        ON CONFLICT (scope, key) DO UPDATE
        SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at, expires_at, result, held,
             correlation_id)
          = (EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder, EXCLUDED.attempt, EXCLUDED.took_over, EXCLUDED.claimed_at, NULL,
             EXCLUDED.completed_at, EXCLUDED.expires_at, EXCLUDED.result, false,
             coalesce(EXCLUDED.correlation_id, CASE WHEN r.completed_at IS NULL THEN r.correlation_id END))
        WHERE (r.completed_at IS NOT NULL AND r.expires_at <= EXCLUDED.claimed_at)
           OR (r.token = $11 AND r.lease_expires_at <= EXCLUDED.claimed_at)
        RETURNING CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock($9) THEN pg_catalog.pg_notify($13, $9::text)::text END)
    SELECT EXISTS (SELECT FROM written) INTO recorded;
    IF NOT recorded THEN
        RAISE EXCEPTION USING ERRCODE = 'OF001', MESSAGE = 'there is nothing to record: the transaction or the claim is another one';
    END IF;
    RETURN true;
END
$function$;

-- Records a step. Takes scope, key, token, name and key of the step, fingerprint of its input, result, and the number of the transaction.
CREATE OR REPLACE FUNCTION "{schema}"."{prefix}record_step_result"(text, text, bigint, text, text, bytea, bytea, text)
RETURNS boolean LANGUAGE plpgsql AS $function$
DECLARE
    recorded boolean;
BEGIN
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    held AS MATERIALIZED (
        SELECT id FROM "{schema}"."{prefix}workflows" w
        WHERE scope = $1 AND key = $2 AND token = $3
          AND EXISTS (SELECT FROM "{schema}"."{prefix}records" r
                      WHERE r.scope = w.scope AND r.key = w.key AND r.token = w.token AND r.completed_at IS NULL)
        FOR KEY SHARE),
    written AS (
        INSERT INTO "{schema}"."{prefix}steps" AS s (workflow, name, key, token, input, result, recorded_at)
        SELECT id, $4, $5, $3, $6, $7, now FROM held, instant
        WHERE pg_catalog.pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM $8
        ON CONFLICT (workflow, name, key) DO UPDATE
        SET token = CASE WHEN s.result IS NULL THEN EXCLUDED.token ELSE s.token END, result = coalesce(s.result, EXCLUDED.result)
        RETURNING workflow)
    SELECT EXISTS (SELECT FROM written) INTO recorded;
    IF NOT recorded THEN
        RAISE EXCEPTION USING ERRCODE = 'OF001', MESSAGE = 'there is nothing to record: the transaction or the claim is another one';
    END IF;
    RETURN true;
END
$function$;
