-- What a mutation of steps was started with, beside its record.
CREATE TABLE "{schema}"."{prefix}workflows" (
    scope      text    COLLATE "C" NOT NULL,
    key        text    COLLATE "C" NOT NULL,
    -- The token of its first claim.
    id         bigint  NOT NULL,
    -- The token of the claim under which it runs, or ran last, its holder, and the version of its code. If the record has another token, this is
    -- stale.
    token      bigint  NOT NULL,
    holder     bytea   NOT NULL CHECK (length(holder) = 16),
    name       text    COLLATE "C" NOT NULL,
    version    text    COLLATE "C" NOT NULL,
    input      bytea   NOT NULL,
    -- How often a completer took it up and did not hand it back.
    tries      bigint  NOT NULL CHECK (tries >= 0),
    -- Whether it waits for a person's decision.
    held       boolean NOT NULL DEFAULT false,
    started_at bigint  NOT NULL,
    PRIMARY KEY (scope, key)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- In the order of the numbers, steps are in the order in which they were recorded.
CREATE TABLE "{schema}"."{prefix}steps" (
    workflow    bigint NOT NULL,
    name        text   COLLATE "C" NOT NULL,
    key         text   COLLATE "C" NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY,
    -- The token under which it was recorded.
    token       bigint NOT NULL,
    input       bytea  CHECK (length(input) = 32),
    -- Null: it was begun, is to be run once at most, and has not told what it did.
    result      bytea,
    recorded_at bigint NOT NULL,
    PRIMARY KEY (workflow, name, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- Steps go with their record, whichever statement deletes it, and under which role: one that releases and purges need not
-- know of these tables. So this runs with the rights of their owner, and nobody else may make a trigger of it.
CREATE FUNCTION "{schema}"."{prefix}forget_steps"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $procedure$
BEGIN
    WITH forgotten AS (
        DELETE FROM "{schema}"."{prefix}workflows" w USING gone
        WHERE w.scope = gone.scope AND w.key = gone.key
        RETURNING w.id)
    DELETE FROM "{schema}"."{prefix}steps" s USING forgotten WHERE s.workflow = forgotten.id;
    RETURN NULL;
END
$procedure$;
REVOKE ALL ON FUNCTION "{schema}"."{prefix}forget_steps"() FROM PUBLIC;
CREATE TRIGGER "{prefix}forget_steps" AFTER DELETE ON "{schema}"."{prefix}records"
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION "{schema}"."{prefix}forget_steps"();

-- Takes what `claim` takes but for the last, then name, version, the versions that are gone on with (JSON), input, the
-- steps from the start (JSON), and whether a completer asks. A takeover of -1 is of whichever has expired.
--
-- Whose lease is over is taken over only if it has steps of this name and of such a version, and is not held. That is
-- looked at first, and decided by the claim, which names the token. A record without a fingerprint is told apart by its
-- input, unless the code is of another version: another input is a conflict (-1). Then, under the claim: a mutation that goes on has
-- its token and version replaced, any other is written anew. A stale holder may have its row locked, in a transaction that is about
-- to be committed: then nothing is claimed, and the request is in progress.
--
-- Answers as `claim` does, then with token, name, version, input, tries, held and steps (JSON) of the mutation if this
-- holder has it, and with the token that could be taken over, or 0.
CREATE PROCEDURE "{schema}"."{prefix}begin_steps"(
    text, text, bytea, bytea, bigint, bigint, bigint, text, text, text, bytea, text, boolean, INOUT a0 bigint,
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
    SELECT CASE WHEN NOT $13 AND r.fingerprint IS NULL AND w.version = $9 AND w.input <> $11 THEN -1 ELSE w.token END
    INTO a19
    FROM "{schema}"."{prefix}workflows" w JOIN "{schema}"."{prefix}records" r USING (scope, key, token)
    WHERE w.scope = $1 AND w.key = $2 AND r.completed_at IS NULL AND NOT w.held AND w.name = $8
      AND $10::jsonb ? w.version AND ($6 = -1 OR $6 = w.token);
    a19 := coalesce(a19, 0);
    IF a19 = -1 OR ($13 AND a19 = 0) THEN
        -- Perhaps it asks again, and has the claim already: then it is answered with it below.
        CALL "{schema}"."{prefix}load"($1, $2, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10);
        a11 := false;
    ELSE
        CALL "{schema}"."{prefix}claim"($1, $2, $3, $4, $5, a19, $7, false,
            a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11);
    END IF;
    IF a11 THEN
        -- What must not be waited for is looked at here: the UPDATE below would wait for a stale holder's transaction,
        -- and a step that comes after the record was claimed would wait for this one (FOR KEY SHARE).
        SELECT id, token, holder INTO there FROM "{schema}"."{prefix}workflows"
        WHERE scope = $1 AND key = $2 FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            goes_on := there.token = a5 OR (a5 IS NULL AND there.holder = $4);
        END IF;
        IF ($13 AND goes_on IS NOT TRUE) OR (there IS NULL AND EXISTS (
            SELECT FROM "{schema}"."{prefix}workflows" WHERE scope = $1 AND key = $2))
        THEN
            ROLLBACK;
            CALL "{schema}"."{prefix}load"($1, $2, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10);
            a11 := false;
            RETURN;
        END IF;
        IF goes_on IS TRUE THEN
            UPDATE "{schema}"."{prefix}workflows"
            SET token = a2, holder = $4, version = $9, tries = tries + $13::integer
            WHERE scope = $1 AND key = $2;
        ELSE
            DELETE FROM "{schema}"."{prefix}steps" WHERE workflow = there.id;
            DELETE FROM "{schema}"."{prefix}workflows" WHERE scope = $1 AND key = $2;
            INSERT INTO "{schema}"."{prefix}workflows"
                (scope, key, id, token, holder, name, version, input, tries, started_at)
            VALUES ($1, $2, a2, a2, $4, $8, $9, $11, $13::integer, a0);
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

-- Takes scope, key, token, name, key of the step, the digest of its input, and its result. The row of the mutation is
-- locked until the step is committed, and its token looked at as it is by then: a takeover claims nothing meanwhile, or this finds
-- another token.
CREATE PROCEDURE "{schema}"."{prefix}record_step"(
    text, text, bigint, text, text, bytea, bytea, INOUT a0 bigint
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
    held AS MATERIALIZED (
        SELECT id FROM "{schema}"."{prefix}workflows"
        WHERE scope = $1 AND key = $2 AND token = $3 FOR KEY SHARE),
    written AS (
        INSERT INTO "{schema}"."{prefix}steps" AS s (workflow, name, key, token, input, result, recorded_at)
        SELECT id, $4, $5, $3, $6, $7, now FROM held, instant
        WHERE EXISTS (SELECT FROM "{schema}"."{prefix}records"
                      WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL)
        ON CONFLICT (workflow, name, key) DO UPDATE SET result = coalesce(s.result, EXCLUDED.result)
        RETURNING workflow)
    SELECT workflow INTO a0 FROM written;
END
$procedure$;

-- Takes scope and key. Answers with token, name, version, input, tries, held and steps (JSON).
CREATE PROCEDURE "{schema}"."{prefix}load_steps"(
    text, text, INOUT a0 bigint, INOUT a1 text, INOUT a2 text, INOUT a3 bytea, INOUT a4 bigint, INOUT a5 boolean,
    INOUT a6 text
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
    SELECT w.token, w.name, w.version, w.input, w.tries, w.held, (
        SELECT coalesce(jsonb_agg(jsonb_build_array(s.name, s.key, encode(s.input, 'hex'), encode(s.result, 'hex'))
                                  ORDER BY s.number), '[]')::text
        FROM "{schema}"."{prefix}steps" s WHERE s.workflow = w.id)
    INTO a0, a1, a2, a3, a4, a5, a6
    FROM "{schema}"."{prefix}workflows" w JOIN "{schema}"."{prefix}records" r USING (scope, key, token)
    WHERE w.scope = $1 AND w.key = $2;
END
$procedure$;
