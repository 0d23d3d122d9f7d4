-- Claims and completions of several callers in one call each, hence in one transaction. What is decided about is what is decided without a
-- doubt and without waiting for anybody; each of the others is answered with null and asked for by itself. No statement waits for a lock that
-- others hold: if there is such a wait all the same, it is soon an error, of which nothing is kept, and each is asked for by itself.
--
-- Each session plans a statement once. The planner knows how long the arrays of a call are, and that a short one is cheaper than one of which it
-- knows nothing: left to itself, it would plan anew for every call of a few, which takes several times what the statement does.

-- Takes what `claim` takes, an element for each, but for the takeover and whether the request is to be held. Decided about is:
--
-- * what has no record: it is claimed, unless another claim of it is being decided about;
-- * what has a record that stands: a lease that runs, or a result that is kept. It is the answer, if it is not large.
--
-- Answers with the instant, and then with an element for each: the token of the claim, whether it is to be asked for by itself, and the record.
-- Two claims of one identity have the lock both; it is the record of one of them, and the other has to ask by itself. If all are granted, there
-- are the tokens and nothing else. That is what is mostly asked for, so the records are not read before something else is to be said.
CREATE PROCEDURE "{schema}"."{prefix}claim_together"(
    text[], text[], bytea[], bytea[], bigint[], bigint[], text[], INOUT a0 bigint, INOUT a1 bigint[], INOUT a2 boolean[],
    INOUT a3 bytea[], INOUT a4 bigint[], INOUT a5 bytea[], INOUT a6 bigint[], INOUT a7 bigint[], INOUT a8 bigint[],
    INOUT a9 bigint[], INOUT a10 bytea[], INOUT a11 boolean[]
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding pg_catalog.text := pg_catalog.current_setting('client_encoding');
    seen boolean[];
    granted bigint;
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '50ms'; SET LOCAL seq_page_cost = 1000; SET LOCAL jit = off;
    SET LOCAL plan_cache_mode = force_generic_plan;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    a0 := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    -- A token is drawn for what has no record, if no other claim of it is being decided about. The record is looked for by the index, whatever the
    -- planner thinks of how many rows there are.
    WITH asked AS MATERIALIZED (
        SELECT w.scope, w.key, w.fingerprint, w.holder, w.lease, w.correlation_id, r.seen,
               CASE WHEN r.seen THEN NULL WHEN pg_try_advisory_xact_lock(w.claim)
                    THEN nextval('"{schema}"."{prefix}tokens"'::pg_catalog.regclass) END AS token
        FROM unnest($1, $2, $3, $4, $5, $6, $7) AS w(scope, key, fingerprint, holder, lease, claim, correlation_id)
             LEFT JOIN LATERAL (
                 SELECT true AS seen FROM "{schema}"."{prefix}records" r
                 WHERE r.scope = w.scope AND r.key = w.key OFFSET 0) r ON true),
    written AS (
        INSERT INTO "{schema}"."{prefix}records"
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held, correlation_id)
        SELECT a.scope, a.key, a.token, a.fingerprint, a.holder, 1, a0, a0 + a.lease, false, nullif(a.correlation_id, '')
        FROM asked a WHERE a.token IS NOT NULL
        ON CONFLICT DO NOTHING
        -- A column, so that nothing is written which the role may not read.
        RETURNING token)
    SELECT array_agg(a.token), array_agg(a.seen), (SELECT count(*) FROM written) INTO a1, seen, granted FROM asked a;
    IF granted = cardinality($1) THEN
        RETURN;
    END IF;
    -- Whose token a record has by now, that has the claim. What was seen and is gone, and what had a token drawn in vain, asks by itself.
    SELECT array_agg(mine), array_agg(alone), array_agg(fingerprint), array_agg(token), array_agg(holder), array_agg(attempt),
           array_agg(lease_expires_at), array_agg(completed_at), array_agg(expires_at), array_agg(result), array_agg(held)
    INTO a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11
    FROM (
        SELECT CASE WHEN r.token = w.token THEN r.token END AS mine,
               r.stands IS FALSE OR (w.token IS NOT NULL AND w.token IS DISTINCT FROM r.token)
               OR (w.seen IS TRUE AND r.token IS NULL) AS alone,
               r.fingerprint, r.token, r.holder, r.attempt, r.lease_expires_at, r.completed_at, r.expires_at, r.result, r.held
        FROM unnest($1, $2, a1, seen) WITH ORDINALITY AS w(scope, key, token, seen, place) LEFT JOIN LATERAL (
            SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, held,
                   CASE WHEN octet_length(result) <= 8192 THEN result END AS result,
                   CASE WHEN completed_at IS NULL THEN lease_expires_at > a0
                        ELSE expires_at > a0 AND octet_length(result) <= 8192 END AS stands
            FROM "{schema}"."{prefix}records" r WHERE r.scope = w.scope AND r.key = w.key OFFSET 0) r ON true
        ORDER BY w.place) answers;
END
$procedure$;

-- Takes what `complete` takes, an element for each, but for one channel. Answers with the places of those that are completed, from 1 on. A
-- row that others have locked is left to who asks by itself, and so is one that the token does not hold.
CREATE PROCEDURE "{schema}"."{prefix}complete_together"(
    text[], text[], bigint[], bytea[], bigint[], bigint[], text, INOUT a0 bigint[], INOUT a1 bigint
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding pg_catalog.text := pg_catalog.current_setting('client_encoding');
    patience pg_catalog.text := pg_catalog.current_setting('lock_timeout');
    instant bigint;
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
    SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '50ms'; SET LOCAL seq_page_cost = 1000; SET LOCAL jit = off;
    SET LOCAL plan_cache_mode = force_generic_plan;
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    instant := floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    WITH free AS MATERIALIZED (
        SELECT r.at, w.result, w.retention, w.watch, w.place
        FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY AS w(scope, key, token, result, retention, watch, place)
             CROSS JOIN LATERAL (
                 SELECT r.ctid AS at FROM "{schema}"."{prefix}records" r
                 WHERE r.scope = w.scope AND r.key = w.key AND r.token = w.token AND r.completed_at IS NULL
                 FOR NO KEY UPDATE SKIP LOCKED) r),
    -- The place of a row that is locked, and was looked at. No other condition, and no scan of the table: the planner would take either for a
    -- reason to read all that is in progress, or was. A row that has changed since this began is not found at its place, and left alone.
    changed AS (
        UPDATE "{schema}"."{prefix}records" r
        SET lease_expires_at = NULL, result = f.result, completed_at = instant, expires_at = instant + f.retention, held = false
        FROM free f
        WHERE r.ctid = f.at
        RETURNING f.place, f.watch)
    SELECT array_agg(place), count(CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock(watch)
             THEN pg_catalog.pg_notify($7, watch::text)::text END) INTO a0, a1
    FROM changed;
    -- The commit waits for its turn to notify as long as one alone would.
    patience := set_config('lock_timeout', patience, true);
END
$procedure$;
