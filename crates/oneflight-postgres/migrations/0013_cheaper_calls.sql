-- What a call costs the server's processor is mostly fixed, and of that mostly what PostgreSQL does anew for each statement: it reads each CHECK
-- of a table from its text, sets up each part of a plan, and describes each column of an answer.

-- Six constraints become one. A row is in progress, with a lease and nothing else, or completed, with all three of the others:
-- the lease counts for three. How long holders and fingerprints are, and that attempts are counted from 1, is what the store's types say, and it
-- reads no row that says otherwise. What is there has been checked, so this need not read it.
ALTER TABLE "{schema}"."{prefix}records"
    DROP CONSTRAINT IF EXISTS "{prefix}records_fingerprint_check", DROP CONSTRAINT IF EXISTS "{prefix}records_holder_check",
    DROP CONSTRAINT IF EXISTS "{prefix}records_attempt_check", DROP CONSTRAINT IF EXISTS "{prefix}records_check",
    DROP CONSTRAINT IF EXISTS "{prefix}records_check1", DROP CONSTRAINT IF EXISTS "{prefix}records_check2",
    ADD CONSTRAINT "{prefix}records_state" CHECK (pg_catalog.num_nonnulls(
        lease_expires_at, lease_expires_at, lease_expires_at, completed_at, expires_at, result) OPERATOR(pg_catalog.=) 3) NOT VALID;

-- The procedures below do what those of the same names do that came before, for a few arguments less in the answer. They set nothing that the
-- session has as it is needed, and have statements of one table instead of one statement for all. No name and no operator in them is
-- looked for where the session looks.

-- Takes what `claim` takes. Answers with numbers: the instant, the token, the attempt, the token that was taken over, the end of the lease, when it was
-- completed and when it expires, whether it is held, and whether this claim wrote it; and with fingerprint, holder and result. If there is no
-- record, there is the instant alone.
CREATE OR REPLACE PROCEDURE "{schema}"."{prefix}claim"(
    text, text, bytea, bytea, bigint, bigint, bigint, boolean, text, INOUT a0 bigint[], INOUT a1 bytea[]
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding pg_catalog.text := pg_catalog.current_setting('client_encoding');
    instant bigint;
    stands boolean;
    drawn bigint;
    b0 bigint; b1 pg_catalog.bytea; b2 bigint; b3 pg_catalog.bytea; b4 bigint; b5 bigint; b6 bigint; b7 bigint; b8 bigint;
    b9 pg_catalog.bytea; b10 boolean; b11 boolean;
BEGIN
    COMMIT;
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'
        OR pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.<>) 'off'
        OR pg_catalog.current_setting('client_encoding') OPERATOR(pg_catalog.<>) 'UTF8'
        OR pg_catalog.current_setting('bytea_output') OPERATOR(pg_catalog.<>) 'hex'
    THEN
        -- Looking has begun a transaction, in which it is too late to say how it is isolated.
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
        SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
        IF encoding OPERATOR(pg_catalog.<>) 'UTF8' THEN
            RAISE feature_not_supported USING
                MESSAGE = 'the session has another encoding than its client: ' OPERATOR(pg_catalog.||) encoding;
        END IF;
    END IF;
    instant := pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint;
    SELECT ARRAY[instant, r.token, r.attempt, r.took_over, r.lease_expires_at, r.completed_at, r.expires_at, r.held::int::bigint, 0],
           ARRAY[r.fingerprint, r.holder, r.result],
           CASE WHEN r.completed_at IS NULL THEN r.lease_expires_at OPERATOR(pg_catalog.>) instant
                ELSE r.expires_at OPERATOR(pg_catalog.>) instant END
    INTO a0, a1, stands
    FROM "{schema}"."{prefix}records" r WHERE r.scope OPERATOR(pg_catalog.=) $1 AND r.key OPERATOR(pg_catalog.=) $2;
    IF stands THEN
        RETURN;
    END IF;
    IF stands IS NULL THEN
        a0 := ARRAY[instant];
        IF NOT pg_catalog.pg_try_advisory_xact_lock($7) THEN
            RETURN;
        END IF;
        INSERT INTO "{schema}"."{prefix}records"
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held, correlation_id)
        VALUES ($1, $2, pg_catalog.nextval('"{schema}"."{prefix}tokens"'::pg_catalog.regclass), $3, $4, 1, instant,
                instant OPERATOR(pg_catalog.+) $5, $8, CASE WHEN $9 OPERATOR(pg_catalog.<>) '' THEN $9 END)
        ON CONFLICT DO NOTHING
        RETURNING token INTO drawn;
        IF drawn IS NOT NULL THEN
            a0 := ARRAY[instant, drawn, 1, NULL, instant OPERATOR(pg_catalog.+) $5, NULL, NULL, $8::int::bigint, 1];
            a1 := ARRAY[$3, $4, NULL];
            RETURN;
        END IF;
    END IF;
    -- What is over may be taken over, and what has just come is decided about.
    CALL "{schema}"."{prefix}claim"($1, $2, $3, $4, $5, $6, $7, $8, $9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11);
    a0 := ARRAY[b0, b2, b4, b5, b6, b7, b8, b10::int::bigint, b11::int::bigint];
    a1 := ARRAY[b1, b3, b9];
END
$procedure$;

-- Takes what `complete` takes.
CREATE OR REPLACE PROCEDURE "{schema}"."{prefix}complete"(
    text, text, bigint, bytea, bigint, bigint, text, INOUT a0 bigint
) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding pg_catalog.text := pg_catalog.current_setting('client_encoding');
    instant bigint;
BEGIN
    COMMIT;
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'
        OR pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.<>) 'off'
        OR pg_catalog.current_setting('client_encoding') OPERATOR(pg_catalog.<>) 'UTF8'
        OR pg_catalog.current_setting('bytea_output') OPERATOR(pg_catalog.<>) 'hex'
    THEN
        -- Looking has begun a transaction, in which it is too late to say how it is isolated.
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
        SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex;
        IF encoding OPERATOR(pg_catalog.<>) 'UTF8' THEN
            RAISE feature_not_supported USING
                MESSAGE = 'the session has another encoding than its client: ' OPERATOR(pg_catalog.||) encoding;
        END IF;
    END IF;
    instant := pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint;
    UPDATE "{schema}"."{prefix}records"
    SET lease_expires_at = NULL, result = $4, completed_at = instant, expires_at = instant OPERATOR(pg_catalog.+) $5, held = false
    WHERE scope OPERATOR(pg_catalog.=) $1 AND key OPERATOR(pg_catalog.=) $2 AND token OPERATOR(pg_catalog.=) $3 AND completed_at IS NULL
    RETURNING token INTO a0;
    IF a0 IS NOT NULL THEN
        IF NOT pg_catalog.pg_try_advisory_xact_lock($6) THEN
            PERFORM pg_catalog.pg_notify($7, $6::pg_catalog.text);
        END IF;
    END IF;
END
$procedure$;

-- They do what their caller may do to the records, and no more. Roles need no new right to go on.
GRANT EXECUTE ON PROCEDURE "{schema}"."{prefix}claim"(
    text, text, bytea, bytea, bigint, bigint, bigint, boolean, text, INOUT bigint[], INOUT bytea[]) TO PUBLIC;
GRANT EXECUTE ON PROCEDURE "{schema}"."{prefix}complete"(text, text, bigint, bytea, bigint, bigint, text, INOUT bigint) TO PUBLIC;

-- Has the server notice that its client is gone, for the length of the transaction. Takes after how many seconds of silence it asks, after how many
-- it asks again, and how often. A setting that is stricter stays. It is a function so that it is read and planned once in each session.
CREATE OR REPLACE FUNCTION "{schema}"."{prefix}keepalive"(bigint, bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $function$
DECLARE
    was bigint;
    ignored pg_catalog.text;
BEGIN
    was := pg_catalog.current_setting('tcp_keepalives_idle');
    IF was OPERATOR(pg_catalog.=) 0 OR was OPERATOR(pg_catalog.>) $1 THEN
        ignored := pg_catalog.set_config('tcp_keepalives_idle', $1::pg_catalog.text, true);
    END IF;
    was := pg_catalog.current_setting('tcp_keepalives_interval');
    IF was OPERATOR(pg_catalog.=) 0 OR was OPERATOR(pg_catalog.>) $2 THEN
        ignored := pg_catalog.set_config('tcp_keepalives_interval', $2::pg_catalog.text, true);
    END IF;
    was := pg_catalog.current_setting('tcp_keepalives_count');
    IF was OPERATOR(pg_catalog.=) 0 OR was OPERATOR(pg_catalog.>) $3 THEN
        ignored := pg_catalog.set_config('tcp_keepalives_count', $3::pg_catalog.text, true);
    END IF;
    -- Something, since not every driver can read a column of nothing.
    RETURN true;
END
$function$;
GRANT EXECUTE ON FUNCTION "{schema}"."{prefix}keepalive"(bigint, bigint, bigint) TO PUBLIC;
