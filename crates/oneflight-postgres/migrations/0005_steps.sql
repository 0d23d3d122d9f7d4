-- What a mutation of steps was started with, beside its record.
CREATE TABLE "{schema}"."{prefix}workflows" (
    scope      text    COLLATE "C" NOT NULL,
    key        text    COLLATE "C" NOT NULL,
    -- The token of its first claim.
    id         bigint  NOT NULL,
    -- The token of the claim under which it runs, or ran last, its holder, and the version of its code. If the record has
    -- another token, this is stale: the token is negative then, once the claim that it was taken over by is committed.
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
-- know of these tables. So this runs with the rights of their owner, and nobody else may make a trigger of it. A stale
-- holder may have the mutation's row locked, in a transaction that is about to be committed. That is waited for, and what
-- it recorded goes as well: the second statement sees it.
CREATE FUNCTION "{schema}"."{prefix}forget_steps"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $procedure$
DECLARE
    ids bigint[];
BEGIN
    WITH forgotten AS (
        DELETE FROM "{schema}"."{prefix}workflows" w USING gone
        WHERE w.scope = gone.scope AND w.key = gone.key
        RETURNING w.id)
    SELECT array_agg(id) INTO ids FROM forgotten;
    IF ids IS NOT NULL THEN
        DELETE FROM "{schema}"."{prefix}steps" WHERE workflow = ANY (ids);
    END IF;
    RETURN NULL;
END
$procedure$;
REVOKE ALL ON FUNCTION "{schema}"."{prefix}forget_steps"() FROM PUBLIC;
CREATE TRIGGER "{prefix}forget_steps" AFTER DELETE ON "{schema}"."{prefix}records"
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION "{schema}"."{prefix}forget_steps"();

-- A claim without steps takes a mutation of steps over: its row is stale from then on, and says so itself, by a token that
-- no holder has. Otherwise a holder that was taken for dead could still commit a step: it looks at this row, and at the
-- record only as it was before. Done at the end of the claim's transaction, by which `begin_steps` has given the row its
-- own token. A step that is about to be committed is waited for. First the lock, then the change: a step's transaction
-- whose snapshot is older than both is refused then.
CREATE FUNCTION "{schema}"."{prefix}outdate_steps"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $procedure$
BEGIN
    PERFORM FROM "{schema}"."{prefix}workflows" w
    WHERE w.scope = OLD.scope AND w.key = OLD.key AND w.token = OLD.token FOR UPDATE;
    IF FOUND THEN
        UPDATE "{schema}"."{prefix}workflows" w SET token = -w.token
        WHERE w.scope = OLD.scope AND w.key = OLD.key AND w.token = OLD.token;
    END IF;
    RETURN NULL;
END
$procedure$;
REVOKE ALL ON FUNCTION "{schema}"."{prefix}outdate_steps"() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER "{prefix}outdate_steps" AFTER UPDATE OF token ON "{schema}"."{prefix}records"
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.token <> NEW.token)
EXECUTE FUNCTION "{schema}"."{prefix}outdate_steps"();

-- Whether a mutation of steps goes on by itself, and so is not in doubt. A role that knows of the records only may ask.
CREATE FUNCTION "{schema}"."{prefix}goes_on"(text, text, bigint) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $procedure$
    SELECT EXISTS (SELECT FROM "{schema}"."{prefix}workflows" w
                   WHERE w.scope = $1 AND w.key = $2 AND w.token = $3 AND NOT w.held)
$procedure$;

-- Takes what `claim` takes but for the last, then name, version, the versions that are gone on with (JSON), input, the
-- steps from the start (JSON), and who asks: a caller (0), a completer (1), or a person who is about to settle the
-- request (2). A takeover of -1 is of whichever has expired.
--
-- Whose lease is over is taken over only if it has steps of this name and of such a version, and is not held. That is
-- looked at first, and decided by the claim, which names the token. Then, under the claim: a mutation that goes on has
-- its token and version replaced, any other is written anew. A stale holder may have its row locked, in a transaction that is about
-- to be committed: then nothing is claimed, and the request is in progress.
--
-- A person takes over whatever the token names. If that is a mutation of steps, it keeps its version and is held; if not,
-- it is a claim like any other.
--
-- Answers as `claim` does, then with token, name, version, input, tries, held and steps (JSON) of the mutation if this
-- holder has it, and with the token that could be taken over, or 0.
CREATE PROCEDURE "{schema}"."{prefix}begin_steps"(
    text, text, bytea, bytea, bigint, bigint, bigint, text, text, text, bytea, text, bigint, INOUT a0 bigint,
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
        IF ($13 = 1 AND goes_on IS NOT TRUE) OR (there IS NULL AND EXISTS (
            SELECT FROM "{schema}"."{prefix}workflows" WHERE scope = $1 AND key = $2))
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
        ON CONFLICT (workflow, name, key) DO UPDATE
        SET token = CASE WHEN s.result IS NULL THEN EXCLUDED.token ELSE s.token END,
            result = coalesce(s.result, EXCLUDED.result)
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
    SELECT w.token, w.name, w.version, w.input, w.tries, w.held AND r.completed_at IS NULL, (
        SELECT coalesce(jsonb_agg(jsonb_build_array(s.name, s.key, encode(s.input, 'hex'), encode(s.result, 'hex'))
                                  ORDER BY s.number), '[]')::text
        FROM "{schema}"."{prefix}steps" s WHERE s.workflow = w.id)
    INTO a0, a1, a2, a3, a4, a5, a6
    FROM "{schema}"."{prefix}workflows" w JOIN "{schema}"."{prefix}records" r USING (scope, key, token)
    WHERE w.scope = $1 AND w.key = $2;
END
$procedure$;
