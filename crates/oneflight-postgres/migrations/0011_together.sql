-- Claims and completions of several callers in one call each, hence in one transaction. What is decided about is what is decided without a
-- doubt and without waiting for anybody; each of the others is answered with null and asked for by itself. No statement waits for a lock that
-- others hold: if there is such a wait all the same, it is soon an error, of which nothing is kept, and each is asked for by itself.

-- Takes what `claim` takes, an element for each, but for the takeover and whether the request is to be held. Decided about is:
--
-- * what has no record: it is claimed, unless another claim of it is being decided about;
-- * what has a record that stands: a lease that runs, or a result that is kept. It is the answer, if it is not large.
--
-- Answers with the instant, and then with an element for each: the token of the claim, whether it is to be asked for by itself, and the record. Two claims of one identity have the lock both; it is the record of one of them, and the other has to ask by itself.
CREATE PROCEDURE "{schema}"."{prefix}claim_together"(
    text[], text[], bytea[], bytea[], bigint[], bigint[], text[], INOUT a0 bigint, INOUT a1 bigint[], INOUT a2 boolean[],
    INOUT a3 bytea[], INOUT a4 bigint[], INOUT a5 bytea[], INOUT a6 bigint[], INOUT a7 bigint[], INOUT a8 bigint[],
    INOUT a9 bigint[], INOUT a10 bytea[], INOUT a11 boolean[]
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '50ms';
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    wanted AS MATERIALIZED (
        SELECT scope, key, fingerprint, holder, lease, claim, correlation_id, place
        FROM unnest($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY
            AS w(scope, key, fingerprint, holder, lease, claim, correlation_id, place)),
    -- By the index, whatever the planner thinks of how many rows there are.
    seen AS MATERIALIZED (
        SELECT w.place, r.*, CASE WHEN r.completed_at IS NULL THEN r.lease_expires_at > now
                                  ELSE r.expires_at > now AND NOT r.is_large END AS stands
        FROM instant, wanted w CROSS JOIN LATERAL (
            SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, held,
                   octet_length(result) > 8192 AS is_large, CASE WHEN octet_length(result) <= 8192 THEN result END AS result
            FROM "{schema}"."{prefix}records" r WHERE r.scope = w.scope AND r.key = w.key OFFSET 0) r),
    drawn AS MATERIALIZED (
        SELECT pg_catalog.nextval('"{schema}"."{prefix}tokens"'::pg_catalog.regclass) AS token, w.*
        FROM wanted w
        WHERE CASE WHEN place IN (SELECT place FROM seen) THEN false
                   ELSE pg_catalog.pg_try_advisory_xact_lock(claim) END),
    granted AS (
        INSERT INTO "{schema}"."{prefix}records" AS r
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held, correlation_id)
        SELECT scope, key, token, fingerprint, holder, 1, now, now + lease, false, nullif(correlation_id, '')
        FROM drawn, instant
        ON CONFLICT DO NOTHING
        RETURNING token)
    SELECT (SELECT now FROM instant), array_agg(mine), array_agg(alone), array_agg(fingerprint), array_agg(token), array_agg(holder),
           array_agg(attempt), array_agg(lease_expires_at), array_agg(completed_at), array_agg(expires_at), array_agg(result),
           array_agg(held)
    INTO a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11
    FROM (
        SELECT g.token AS mine, (d.token IS NOT NULL AND g.token IS NULL) OR s.stands IS FALSE AS alone,
               s.fingerprint, s.token, s.holder, s.attempt, s.lease_expires_at, s.completed_at, s.expires_at, s.result, s.held
        FROM wanted w LEFT JOIN drawn d ON d.place = w.place LEFT JOIN granted g ON g.token = d.token
             LEFT JOIN seen s ON s.place = w.place
        ORDER BY w.place) answers;
END
$procedure$;

-- Takes what `complete` takes, an element for each, but for one channel. Answers with the places of those that are completed, from 1 on. A
-- row that others have locked is left to who asks by itself, and so is one that the token does not hold.
CREATE PROCEDURE "{schema}"."{prefix}complete_together"(
    text[], text[], bigint[], bytea[], bigint[], bigint[], text, INOUT a0 bigint[], INOUT a1 bigint
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
    patience text := pg_catalog.current_setting('lock_timeout');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '50ms'; SET LOCAL enable_seqscan = off;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    WITH instant AS MATERIALIZED (
        SELECT pg_catalog.floor(
            extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint AS now),
    free AS MATERIALIZED (
        SELECT r.at, w.token, w.result, w.retention, w.watch, w.place
        FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY AS w(scope, key, token, result, retention, watch, place)
             CROSS JOIN LATERAL (
                 SELECT r.ctid AS at FROM "{schema}"."{prefix}records" r
                 WHERE r.scope = w.scope AND r.key = w.key AND r.token = w.token AND r.completed_at IS NULL
                 FOR NO KEY UPDATE SKIP LOCKED) r),
    -- The place of a row that is locked, and was looked at. No other condition, and no scan of the table: the planner would take either for a
    -- reason to read all that is in progress, or was. A row that has changed since this began is not found at its place, and left alone.
    changed AS (
        UPDATE "{schema}"."{prefix}records" r
        SET lease_expires_at = NULL, result = f.result, completed_at = now, expires_at = now + f.retention, held = false
        FROM free f, instant
        WHERE r.ctid = f.at
        RETURNING f.place, f.watch)
    SELECT array_agg(place), count(CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock(watch)
             THEN pg_catalog.pg_notify($7, watch::text)::text END) INTO a0, a1
    FROM changed;
    -- The commit waits for its turn to notify as long as one alone would.
    PERFORM pg_catalog.set_config('lock_timeout', patience, true);
END
$procedure$;
