-- Messages and receipts are appended, and leave with their partition: no row of either is updated or deleted. All times
-- are milliseconds since the Unix epoch, on the server's clock.

-- Draws ids and positions. No cache: what draws later gets the larger number, in whichever session.
CREATE SEQUENCE "{schema}"."{prefix}positions" AS bigint CACHE 1;
CREATE SEQUENCE "{schema}"."{prefix}relay_tokens" AS bigint CACHE 1;

-- Where is written now. Its one row changes when the partitions rotate.
CREATE TABLE "{schema}"."{prefix}rotation" (
    one      boolean  PRIMARY KEY DEFAULT true CHECK (one),
    messages smallint NOT NULL,
    receipts smallint NOT NULL,
    since    bigint   NOT NULL,
    -- Nothing is left under a position before this one, and nothing is remembered of it.
    gone     bigint   NOT NULL DEFAULT 0
);
INSERT INTO "{schema}"."{prefix}rotation" (messages, receipts, since) VALUES (0, 0, 0);

-- `xid` is the number of the transaction that wrote the row, also from inside of a savepoint. `id` is the position under
-- which the message first stood here; a message that comes back has another position and the same id.
CREATE TABLE "{schema}"."{prefix}messages" (
    slot           smallint NOT NULL,
    shard          smallint NOT NULL,
    attempts       integer  NOT NULL,
    position       bigint   NOT NULL,
    id             bigint   NOT NULL,
    xid            xid8     NOT NULL,
    sent_at        bigint   NOT NULL,
    expires_at     bigint,
    due_at         bigint,
    deduplicated   boolean  NOT NULL,
    topic          text     COLLATE "C" NOT NULL,
    key            text     COLLATE "C" NOT NULL,
    ordering_key   text     COLLATE "C",
    content_type   text     NOT NULL,
    correlation_id text,
    traceparent    text,
    headers        text,
    done           text[],
    payload        bytea    NOT NULL
) PARTITION BY LIST (slot);
CREATE INDEX "{prefix}messages_position" ON "{schema}"."{prefix}messages" (position);
CREATE INDEX "{prefix}messages_xid" ON "{schema}"."{prefix}messages" (xid, position);
CREATE INDEX "{prefix}messages_id" ON "{schema}"."{prefix}messages" (id) WHERE id <> position;
CREATE UNIQUE INDEX "{prefix}messages_key" ON "{schema}"."{prefix}messages" (key, topic, slot) WHERE deduplicated AND id = position;
CREATE INDEX "{prefix}messages_keys" ON "{schema}"."{prefix}messages" (key, topic) WHERE deduplicated AND id <> position;

-- What became of messages, a row a batch. 1: a relay took them. 2: delivered. 3: failed, and due again. 4: ended
-- otherwise, or moved on. 5: given back without an attempt. 6: one of several targets has them. Of two about one message,
-- the one with the larger `seq` was written later; what a relay says twice is of no other consequence than once.
CREATE TABLE "{schema}"."{prefix}receipts" (
    slot      smallint  NOT NULL,
    kind      smallint  NOT NULL,
    seq       bigint    NOT NULL,
    token     bigint,
    at        bigint    NOT NULL,
    due       bigint,
    span      int8range NOT NULL,
    positions bigint[]  NOT NULL,
    detail    text
) PARTITION BY LIST (slot);
CREATE INDEX "{prefix}receipts_span" ON "{schema}"."{prefix}receipts" USING gist (span);

CREATE TABLE "{schema}"."{prefix}messages_0" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (0)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}messages_1" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (1)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}messages_2" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (2)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}messages_3" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (3)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}messages_4" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (4)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}messages_5" PARTITION OF "{schema}"."{prefix}messages" FOR VALUES IN (5)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}receipts_0" PARTITION OF "{schema}"."{prefix}receipts" FOR VALUES IN (0)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}receipts_1" PARTITION OF "{schema}"."{prefix}receipts" FOR VALUES IN (1)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}receipts_2" PARTITION OF "{schema}"."{prefix}receipts" FOR VALUES IN (2)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE "{schema}"."{prefix}receipts_3" PARTITION OF "{schema}"."{prefix}receipts" FOR VALUES IN (3)
    WITH (autovacuum_vacuum_insert_threshold = -1);

-- What is not to be delivered soon, so that it keeps no partition from being emptied: messages that were sent for
-- later, long pauses, and dead letters, which are due never. `blocks` tells that later messages of the ordering key
-- wait.
CREATE TABLE "{schema}"."{prefix}parked" (
    id             bigint   PRIMARY KEY,
    due            bigint,
    blocks         boolean  NOT NULL,
    parked_at      bigint   NOT NULL,
    error          text,
    shard          smallint NOT NULL,
    attempts       integer  NOT NULL,
    sent_at        bigint   NOT NULL,
    expires_at     bigint,
    deduplicated   boolean  NOT NULL,
    topic          text     COLLATE "C" NOT NULL,
    key            text     COLLATE "C" NOT NULL,
    ordering_key   text     COLLATE "C",
    content_type   text     NOT NULL,
    correlation_id text,
    traceparent    text,
    headers        text,
    done           text[],
    payload        bytea    NOT NULL
);
CREATE INDEX "{prefix}parked_due" ON "{schema}"."{prefix}parked" (due) WHERE due IS NOT NULL;
CREATE INDEX "{prefix}parked_dead" ON "{schema}"."{prefix}parked" (id) WHERE due IS NULL;
CREATE INDEX "{prefix}parked_blocks" ON "{schema}"."{prefix}parked" (shard) WHERE blocks;
CREATE UNIQUE INDEX "{prefix}parked_key" ON "{schema}"."{prefix}parked" (key, topic) WHERE deduplicated;

-- Messages of the ring that must not be taken any more: cancelled, or parked by an operator.
CREATE TABLE "{schema}"."{prefix}withdrawn" (
    position  bigint  PRIMARY KEY,
    postponed boolean NOT NULL
);

-- A relay that is alive changes its row a few times in each lease. Unlogged: after a crash, and in a server that was
-- promoted, it is empty, and each relay joins anew and reads everything anew. It has to: such a server gives numbers of
-- transactions out again that came to nothing which it knows of, and a relay has perhaps read beyond them.
CREATE UNLOGGED TABLE "{schema}"."{prefix}relays" (
    token bigint PRIMARY KEY,
    team  text   COLLATE "C" NOT NULL,
    beats bigint NOT NULL
);
CREATE TABLE "{schema}"."{prefix}shards" (
    team  text     COLLATE "C" NOT NULL,
    shard smallint NOT NULL,
    token bigint,
    PRIMARY KEY (team, shard)
);

CREATE FUNCTION "{schema}"."{prefix}now"() RETURNS bigint LANGUAGE sql VOLATILE AS $function$
    SELECT pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint
$function$;

-- The last position that was drawn, read before this transaction has a number, which it then gets. Each transaction that drew
-- that position or an earlier one had a number before, hence a smaller one. So once this transaction is over, a snapshot knows
-- all of those: what it does not know has a larger position. (A number that a snapshot does not know may have been given
-- out long before: a snapshot knows numbers up to the last one that *ended*.)
CREATE FUNCTION "{schema}"."{prefix}last_position"() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    drawn bigint;
BEGIN
    SELECT CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END INTO drawn
    FROM "{schema}"."{prefix}positions" s;
    PERFORM pg_current_xact_id();
    RETURN drawn;
END
$function$;

-- Sends messages in the transaction of the session, each under the number of the transaction. Under an ordering key,
-- transactions take turns from here to their commit, so that ids are in the order of commits. The locks are taken in
-- one order, so that two that send under several keys at once do not wait for each other. So do transactions under a
-- key by which messages are deduplicated, if `turns` says so: where a claim excludes another one, it need not be.
CREATE FUNCTION "{schema}"."{prefix}send"(
    shards smallint[], topics text[], keys text[], deduplicates boolean[], ordering_keys text[], content_types text[],
    payloads bytea[], headers_of text[], correlation_ids text[], traceparents text[], delays bigint[], expiries bigint[],
    turns boolean[]
) RETURNS TABLE (message_id bigint, is_new boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
#variable_conflict use_column
DECLARE
    current_slot smallint;
    known bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(keys)]);
    instant bigint := "{schema}"."{prefix}now"();
    transaction_number xid8;
BEGIN
    IF current_setting('client_encoding') <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client';
    END IF;
    IF true = ANY (turns) OR array_remove(ordering_keys, NULL) <> '{}' THEN
        PERFORM pg_advisory_xact_lock(number) FROM (
            SELECT DISTINCT hashtextextended('"{schema}"."{prefix}messages"'::regclass::oid::text || purpose || name, 7117) AS number
            FROM (SELECT 'o' AS purpose, unnest(ordering_keys) AS name
                  UNION ALL
                  SELECT 'k', k.name || E'\n' || k.topic FROM unnest(keys, topics, turns) k (name, topic, wanted)
                  WHERE k.wanted) named
            WHERE name IS NOT NULL ORDER BY 1) locks;
    END IF;
    -- Before any position is drawn: a position is then larger than all that a snapshot knew which does not know this
    -- number.
    transaction_number := pg_current_xact_id();
    SELECT r.messages INTO current_slot FROM "{schema}"."{prefix}rotation" r;
    -- A statement of its own, since it opens every partition.
    IF true = ANY (deduplicates) THEN
        known := ARRAY(
            SELECT CASE WHEN given.deduplicated THEN coalesce(
                       (SELECT m.id FROM "{schema}"."{prefix}messages" m
                        WHERE m.key = given.key AND m.topic = given.topic AND m.deduplicated AND m.id = m.position LIMIT 1),
                       (SELECT m.id FROM "{schema}"."{prefix}messages" m
                        WHERE m.key = given.key AND m.topic = given.topic AND m.deduplicated AND m.id <> m.position LIMIT 1),
                       (SELECT p.id FROM "{schema}"."{prefix}parked" p
                        WHERE p.key = given.key AND p.topic = given.topic AND p.deduplicated)) END
            FROM unnest(keys, topics, deduplicates) WITH ORDINALITY AS given (key, topic, deduplicated, number)
            ORDER BY given.number);
    END IF;
    -- One message is most often all, and what follows takes longer to begin than to do.
    IF cardinality(keys) = 1 AND (delays[1] IS NULL OR ordering_keys[1] IS NOT NULL) THEN
        message_id := known[1];
        is_new := message_id IS NULL;
        IF is_new THEN
            message_id := nextval('"{schema}"."{prefix}positions"'::regclass);
            IF deduplicates[1] THEN
                INSERT INTO "{schema}"."{prefix}messages"
                    (slot, shard, attempts, position, id, xid, sent_at, expires_at, due_at, deduplicated, topic, key,
                     ordering_key, content_type, correlation_id, traceparent, headers, payload)
                VALUES (current_slot, shards[1], 0, message_id, message_id, transaction_number, instant,
                        instant + expiries[1], instant + delays[1], true, topics[1], keys[1], ordering_keys[1],
                        content_types[1], correlation_ids[1], traceparents[1], headers_of[1], payloads[1])
                ON CONFLICT DO NOTHING;
            ELSE
                INSERT INTO "{schema}"."{prefix}messages"
                    (slot, shard, attempts, position, id, xid, sent_at, expires_at, due_at, deduplicated, topic, key,
                     ordering_key, content_type, correlation_id, traceparent, headers, payload)
                VALUES (current_slot, shards[1], 0, message_id, message_id, transaction_number, instant,
                        instant + expiries[1], instant + delays[1], false, topics[1], keys[1], ordering_keys[1],
                        content_types[1], correlation_ids[1], traceparents[1], headers_of[1], payloads[1]);
            END IF;
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT *, row_number() OVER (PARTITION BY key, topic, deduplicated ORDER BY number) AS nth
        FROM unnest(shards, topics, keys, deduplicates, ordering_keys, content_types, payloads, headers_of, correlation_ids,
                    traceparents, delays, expiries, known) WITH ORDINALITY
            AS given (shard, topic, key, deduplicated, ordering_key, content_type, payload, headers, correlation_id,
                      traceparent, delay, expiry, known_id, number)),
    firsts AS (
        SELECT * FROM given
        WHERE NOT given.deduplicated
           OR (given.known_id IS NULL AND given.nth = 1)),
    numbered AS MATERIALIZED (
        SELECT nextval('"{schema}"."{prefix}positions"'::regclass) AS id, ordered.*
        FROM (SELECT * FROM firsts ORDER BY number) ordered),
    sent AS (
        INSERT INTO "{schema}"."{prefix}messages"
            (slot, shard, attempts, position, id, xid, sent_at, expires_at, due_at, deduplicated, topic, key, ordering_key,
             content_type, correlation_id, traceparent, headers, payload)
        SELECT current_slot, n.shard, 0, n.id, n.id, transaction_number, instant, instant + n.expiry, instant + n.delay,
               n.deduplicated, n.topic, n.key, n.ordering_key, n.content_type, n.correlation_id, n.traceparent, n.headers,
               n.payload
        FROM numbered n
        -- Under an ordering key, a relay has to know of it, to hold up what is behind it.
        WHERE n.delay IS NULL OR n.ordering_key IS NOT NULL ORDER BY n.id
        -- Nothing conflicts in a transaction that sees what is committed; above that, the server ends it for this.
        ON CONFLICT DO NOTHING),
    set_aside AS (
        INSERT INTO "{schema}"."{prefix}parked"
            (id, due, blocks, parked_at, shard, attempts, sent_at, expires_at, deduplicated, topic, key, ordering_key,
             content_type, correlation_id, traceparent, headers, payload)
        SELECT n.id, instant + n.delay, false, instant, n.shard, 0, instant, instant + n.expiry,
               n.deduplicated, n.topic, n.key, n.ordering_key, n.content_type, n.correlation_id, n.traceparent, n.headers,
               n.payload
        FROM numbered n WHERE n.delay IS NOT NULL AND n.ordering_key IS NULL)
    SELECT coalesce(n.id, given.known_id,
                    (SELECT first.id FROM numbered first WHERE first.deduplicated AND first.key = given.key
                                                           AND first.topic = given.topic)),
           n.id IS NOT NULL
    FROM given LEFT JOIN numbered n ON n.number = given.number ORDER BY given.number;
END
$function$;

-- Brings parked messages back into the ring, in their old place within their ordering key.
CREATE FUNCTION "{schema}"."{prefix}bring_back"(ids bigint[], as_new boolean, as_expired boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    transaction_number xid8 := pg_current_xact_id();
    brought bigint;
BEGIN
    WITH back AS (DELETE FROM "{schema}"."{prefix}parked" WHERE id = ANY (ids) RETURNING *)
    INSERT INTO "{schema}"."{prefix}messages"
        (slot, shard, attempts, position, id, xid, sent_at, expires_at, deduplicated, topic, key, ordering_key,
         content_type, correlation_id, traceparent, headers, done, payload)
    SELECT r.messages, b.shard, CASE WHEN as_new THEN 0 ELSE b.attempts END,
           nextval('"{schema}"."{prefix}positions"'::regclass), b.id, transaction_number, b.sent_at,
           CASE WHEN as_expired THEN 0 ELSE b.expires_at END, b.deduplicated, b.topic, b.key, b.ordering_key,
           b.content_type, b.correlation_id, b.traceparent, b.headers, b.done, b.payload
    FROM back b, "{schema}"."{prefix}rotation" r;
    GET DIAGNOSTICS brought = ROW_COUNT;
    RETURN brought;
END
$function$;

-- What is due, a batch at a time. Rows that others bring back meanwhile are left to them.
CREATE FUNCTION "{schema}"."{prefix}bring_back_due"(most bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    ids bigint[];
BEGIN
    ids := ARRAY(SELECT p.id FROM "{schema}"."{prefix}parked" p WHERE p.due <= "{schema}"."{prefix}now"()
                 ORDER BY p.due LIMIT most FOR UPDATE SKIP LOCKED);
    IF cardinality(ids) = 0 THEN
        RETURN 0;
    END IF;
    RETURN "{schema}"."{prefix}bring_back"(ids, false, false);
END
$function$;

-- Fails in a transaction whose statements do not see what was committed before each of them: what is looked at after a
-- lock would be what was there before it.
CREATE FUNCTION "{schema}"."{prefix}in_read_committed"() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE feature_not_supported USING MESSAGE = 'the outbox has to be asked in a transaction that is READ COMMITTED';
    END IF;
END
$function$;

-- The shards among these that the relay has not got. Shards change hands, and messages are withdrawn, under a lock that
-- those who take and settle share: each statement after it sees what was committed before.
CREATE FUNCTION "{schema}"."{prefix}lost"(of_team text, of_token bigint, of_shards smallint[]) RETURNS smallint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
BEGIN
    PERFORM "{schema}"."{prefix}in_read_committed"();
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('oneflight ' || '"{schema}"."{prefix}shards"'::regclass::oid::text, 7117));
    RETURN ARRAY(SELECT wanted FROM unnest(of_shards) wanted
                 WHERE NOT EXISTS (SELECT FROM "{schema}"."{prefix}shards" s
                                   WHERE s.team = of_team AND s.shard = wanted AND s.token = of_token));
END
$function$;

-- A relay begins to deliver. What it has read perhaps long ago may have been withdrawn since, or be gone: ended by an
-- operator's hand (cancelled), or brought elsewhere (postponed), where it is read again. That it takes is seen at once by those who would cancel, so it need not wait for the disk. A server that
-- crashes forgets what was taken in the last moments before: it does not count as an attempt, and can be cancelled.
CREATE FUNCTION "{schema}"."{prefix}take"(
    of_team text, of_token bigint, of_shards smallint[], of_ids bigint[], of_positions bigint[],
    OUT lost_shards smallint[], OUT cancelled bigint[], OUT postponed bigint[], OUT last_position bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    taken bigint[];
    current_slot smallint;
    gone_before bigint;
    had_gone bigint[];
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    last_position := "{schema}"."{prefix}last_position"();
    lost_shards := "{schema}"."{prefix}lost"(of_team, of_token, of_shards);
    cancelled := '{}'; postponed := '{}';
    -- After a crash of the server, what a relay takes before it has joined anew may be out of its order.
    IF NOT EXISTS (SELECT FROM "{schema}"."{prefix}relays" r WHERE r.token = of_token AND r.team = of_team) THEN
        lost_shards := of_shards;
    END IF;
    IF cardinality(lost_shards) > 0 THEN
        RETURN;
    END IF;
    taken := of_positions;
    IF EXISTS (SELECT FROM "{schema}"."{prefix}withdrawn") THEN
        cancelled := ARRAY(SELECT w.position FROM "{schema}"."{prefix}withdrawn" w
                           WHERE w.position = ANY (of_positions) AND NOT w.postponed);
        postponed := ARRAY(SELECT w.position FROM "{schema}"."{prefix}withdrawn" w
                           WHERE w.position = ANY (of_positions) AND w.postponed);
    END IF;
    -- After what is withdrawn: what is forgotten there is gone here.
    SELECT r.receipts, r.gone INTO current_slot, gone_before FROM "{schema}"."{prefix}rotation" r;
    had_gone := ARRAY(SELECT g.position FROM unnest(of_ids, of_positions) g (id, position)
                      WHERE g.position < gone_before AND (
                          EXISTS (SELECT FROM "{schema}"."{prefix}messages" m WHERE m.id = g.id AND m.id <> m.position)
                          OR EXISTS (SELECT FROM "{schema}"."{prefix}parked" k WHERE k.id = g.id)));
    postponed := postponed || had_gone;
    cancelled := cancelled || ARRAY(SELECT p FROM unnest(of_positions) p
                                    WHERE p < gone_before AND NOT (p = ANY (postponed)) AND NOT (p = ANY (cancelled)));
    IF cardinality(cancelled) + cardinality(postponed) > 0 THEN
        taken := ARRAY(SELECT p FROM unnest(of_positions) p WHERE NOT (p = ANY (cancelled) OR p = ANY (postponed)));
    END IF;
    IF cardinality(taken) > 0 THEN
        INSERT INTO "{schema}"."{prefix}receipts" (slot, kind, seq, token, at, span, positions)
        VALUES (current_slot, 1, nextval('"{schema}"."{prefix}positions"'::regclass), of_token, "{schema}"."{prefix}now"(),
                int8range((SELECT min(p) FROM unnest(taken) p), (SELECT max(p) FROM unnest(taken) p), '[]'), taken);
    END IF;
END
$function$;

-- What became of messages that a relay had taken: all of it, or nothing if a shard is another's by now.
CREATE FUNCTION "{schema}"."{prefix}settle"(
    of_team text, of_token bigint, of_shards smallint[], delivered bigint[], ended bigint[], released bigint[],
    failed bigint[], failed_pauses bigint[], failed_errors text[], parts bigint[], part_targets text[],
    parks bigint[], park_pauses bigint[], park_blocks boolean[], park_attempts integer[], park_errors text[],
    park_done text[]
) RETURNS smallint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    instant bigint := "{schema}"."{prefix}now"();
    lost_shards smallint[] := "{schema}"."{prefix}lost"(of_team, of_token, of_shards);
    moves bigint[] := '{}';
    seq bigint;
BEGIN
    IF cardinality(lost_shards) > 0 THEN
        RETURN lost_shards;
    END IF;
    seq := nextval('"{schema}"."{prefix}positions"'::regclass);
    IF cardinality(parks) > 0 THEN
        -- Not again what the relay says again: it has perhaps come back since.
        moves := ARRAY(SELECT p FROM unnest(parks) p WHERE NOT EXISTS (
            SELECT FROM "{schema}"."{prefix}receipts" r
            WHERE r.kind IN (2, 4) AND r.span @> p AND p = ANY (r.positions)));
        INSERT INTO "{schema}"."{prefix}parked"
            (id, due, blocks, parked_at, error, shard, attempts, sent_at, expires_at, deduplicated, topic, key,
             ordering_key, content_type, correlation_id, traceparent, headers, done, payload)
        SELECT m.id, instant + g.pause, g.blocks, instant, g.error, m.shard, g.attempts, m.sent_at, m.expires_at,
               m.deduplicated, m.topic, m.key, m.ordering_key, m.content_type, m.correlation_id, m.traceparent, m.headers,
               string_to_array(g.done, E'\x1f'), m.payload
        FROM unnest(parks, park_pauses, park_blocks, park_attempts, park_errors, park_done)
                 AS g (position, pause, blocks, attempts, error, done)
             JOIN "{schema}"."{prefix}messages" m ON m.position = g.position
        WHERE g.position = ANY (moves)
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO "{schema}"."{prefix}receipts" (slot, kind, seq, token, at, due, span, positions, detail)
    SELECT r.receipts, b.kind, seq, of_token, instant, b.due,
           int8range((SELECT min(p) FROM unnest(b.positions) p), (SELECT max(p) FROM unnest(b.positions) p), '[]'),
           b.positions, b.detail
    FROM "{schema}"."{prefix}rotation" r, (
        SELECT 2 AS kind, NULL::bigint AS due, delivered AS positions, NULL::text AS detail
        UNION ALL SELECT 4, NULL, ended || moves, NULL
        UNION ALL SELECT 5, NULL, released, NULL
        UNION ALL SELECT 3, instant + f.pause, ARRAY[f.position], f.error
                  FROM unnest(failed, failed_pauses, failed_errors) AS f (position, pause, error)
        UNION ALL SELECT 6, NULL, ARRAY[p.position], p.target FROM unnest(parts, part_targets) AS p (position, target)
    ) b WHERE cardinality(b.positions) > 0;
    RETURN lost_shards;
END
$function$;

-- Withdraws a message that no relay has in its hands: cancels it, or has it parked for so long. What is parked already
-- comes back as expired if later messages wait for it.
CREATE FUNCTION "{schema}"."{prefix}withdraw"(of_id bigint, pause bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    instant bigint := "{schema}"."{prefix}now"();
    message "{schema}"."{prefix}messages";
    in_hands boolean;
    has_ended boolean;
BEGIN
    PERFORM "{schema}"."{prefix}in_read_committed"();
    PERFORM pg_advisory_xact_lock(hashtextextended('oneflight ' || '"{schema}"."{prefix}shards"'::regclass::oid::text, 7117));
    IF pause IS NOT NULL THEN
        UPDATE "{schema}"."{prefix}parked" SET due = instant + pause WHERE id = of_id AND due IS NOT NULL;
        IF FOUND THEN RETURN true; END IF;
    ELSE
        PERFORM FROM "{schema}"."{prefix}parked" WHERE id = of_id AND blocks;
        IF FOUND THEN RETURN "{schema}"."{prefix}bring_back"(ARRAY[of_id], false, true) > 0; END IF;
        DELETE FROM "{schema}"."{prefix}parked" WHERE id = of_id;
        IF FOUND THEN RETURN true; END IF;
    END IF;
    SELECT * INTO message FROM (
        SELECT * FROM "{schema}"."{prefix}messages" m WHERE m.position = of_id AND m.id = of_id
        UNION ALL
        SELECT * FROM "{schema}"."{prefix}messages" m WHERE m.id = of_id AND m.id <> m.position) found
    ORDER BY position DESC LIMIT 1;
    IF message.id IS NULL OR message.expires_at = 0 THEN RETURN false; END IF;
    -- One whose relay died with it is in its hands: it has perhaps been delivered.
    SELECT coalesce((array_agg(r.kind ORDER BY r.seq DESC))[1] = 1, false), coalesce(bool_or(r.kind IN (2, 4)), false)
    INTO in_hands, has_ended
    FROM "{schema}"."{prefix}receipts" r WHERE r.span @> message.position AND message.position = ANY (r.positions);
    IF has_ended OR in_hands THEN RETURN false; END IF;
    INSERT INTO "{schema}"."{prefix}withdrawn" (position, postponed) VALUES (message.position, pause IS NOT NULL);
    INSERT INTO "{schema}"."{prefix}receipts" (slot, kind, seq, at, span, positions, detail)
    SELECT r.receipts, 4, nextval('"{schema}"."{prefix}positions"'::regclass), instant, int8range(message.position, message.position, '[]'), ARRAY[message.position],
           CASE WHEN pause IS NULL THEN 'cancelled' ELSE 'postponed' END
    FROM "{schema}"."{prefix}rotation" r;
    IF pause IS NOT NULL THEN
        INSERT INTO "{schema}"."{prefix}parked"
            (id, due, blocks, parked_at, shard, attempts, sent_at, expires_at, deduplicated, topic, key, ordering_key,
             content_type, correlation_id, traceparent, headers, done, payload)
        VALUES (message.id, instant + pause, message.ordering_key IS NOT NULL, instant, message.shard, message.attempts,
                message.sent_at, message.expires_at, message.deduplicated, message.topic, message.key,
                message.ordering_key, message.content_type, message.correlation_id, message.traceparent, message.headers,
                message.done, message.payload);
    END IF;
    RETURN true;
END
$function$;

-- Moves messages of the ring to where is written now, so that the few that are left of an old partition keep neither it
-- nor receipts from being emptied. What a relay has in its hands stays. To a relay that knows the old position, it counts
-- as postponed.
CREATE FUNCTION "{schema}"."{prefix}bring_forward"(of_positions bigint[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    instant bigint := "{schema}"."{prefix}now"();
    transaction_number xid8;
    moved bigint[];
BEGIN
    PERFORM "{schema}"."{prefix}in_read_committed"();
    PERFORM pg_advisory_xact_lock(hashtextextended('oneflight ' || '"{schema}"."{prefix}shards"'::regclass::oid::text, 7117));
    transaction_number := pg_current_xact_id();
    WITH left_over AS MATERIALIZED (
        SELECT p AS old, told.*
        FROM unnest(of_positions) p CROSS JOIN LATERAL (
            SELECT coalesce(bool_or(r.kind IN (2, 4)), false) AS has_ended,
                   coalesce((array_agg(r.kind ORDER BY r.seq DESC))[1] = 1, false) AS in_hands,
                   count(*) FILTER (WHERE r.kind = 1) - count(DISTINCT r.taking) FILTER (WHERE r.kind = 5) AS taken,
                   max(r.due) FILTER (WHERE r.kind = 3) AS due,
                   coalesce(array_agg(r.detail) FILTER (WHERE r.kind = 6), '{}') AS done
            FROM (SELECT r.kind, r.seq, r.due, r.detail,
                         count(*) FILTER (WHERE r.kind = 1) OVER (ORDER BY r.seq) AS taking
                  FROM "{schema}"."{prefix}receipts" r WHERE r.span @> p AND p = ANY (r.positions)) r) told
        WHERE NOT told.has_ended AND NOT told.in_hands),
    moves AS (
        INSERT INTO "{schema}"."{prefix}messages"
            (slot, shard, attempts, position, id, xid, sent_at, expires_at, due_at, deduplicated, topic, key, ordering_key,
             content_type, correlation_id, traceparent, headers, done, payload)
        SELECT r.messages, m.shard, m.attempts + l.taken, nextval('"{schema}"."{prefix}positions"'::regclass), m.id,
               transaction_number, m.sent_at, m.expires_at, coalesce(l.due, m.due_at), m.deduplicated, m.topic, m.key,
               m.ordering_key, m.content_type, m.correlation_id, m.traceparent, m.headers,
               coalesce(m.done, '{}') || l.done, m.payload
        FROM left_over l JOIN "{schema}"."{prefix}messages" m ON m.position = l.old, "{schema}"."{prefix}rotation" r)
    SELECT coalesce(array_agg(l.old), '{}') INTO moved FROM left_over l;
    IF cardinality(moved) > 0 THEN
        INSERT INTO "{schema}"."{prefix}withdrawn" (position, postponed) SELECT p, true FROM unnest(moved) p
        ON CONFLICT DO NOTHING;
        INSERT INTO "{schema}"."{prefix}receipts" (slot, kind, seq, at, span, positions, detail)
        SELECT r.receipts, 4, nextval('"{schema}"."{prefix}positions"'::regclass), instant,
               int8range((SELECT min(p) FROM unnest(moved) p), (SELECT max(p) FROM unnest(moved) p), '[]'), moved, 'moved'
        FROM "{schema}"."{prefix}rotation" r;
    END IF;
    RETURN cardinality(moved);
END
$function$;

-- A sign of life. Others' deaths are seen by those who watch them: a clock that is set back keeps no shard from being
-- taken over, and one that is set forward takes none away.
CREATE FUNCTION "{schema}"."{prefix}beat"(
    of_team text, of_token bigint, share integer, gives_back smallint[], dead_tokens bigint[], dead_beats bigint[],
    known_limit text, known_snapshot text, known_position bigint, of_shards smallint[],
    OUT my_token bigint, OUT my_shards smallint[], OUT peer_tokens bigint[], OUT peer_beats bigint[], OUT news boolean,
    OUT due_in bigint, OUT last_position bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    has integer;
BEGIN
    PERFORM "{schema}"."{prefix}in_read_committed"();
    -- A token that was drawn is not drawn again, whatever crashes: one that joins waits for the disk.
    IF of_token IS NOT NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    last_position := "{schema}"."{prefix}last_position"();
    IF of_token IS NULL THEN
        -- With something random in it: a server that takes the place of another one may draw a number again.
        my_token := nextval('"{schema}"."{prefix}relay_tokens"'::regclass) * 1048576 + floor(random() * 1048576)::bigint;
        INSERT INTO "{schema}"."{prefix}relays" (token, team, beats) VALUES (my_token, of_team, 1);
        INSERT INTO "{schema}"."{prefix}shards" (team, shard) SELECT of_team, generate_series(0, 63)
        ON CONFLICT DO NOTHING;
        -- Rows of another system, restored here, with numbers of transactions that this one has not come to.
        IF EXISTS (SELECT FROM "{schema}"."{prefix}messages" WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())) THEN
            UPDATE "{schema}"."{prefix}messages" SET xid = pg_current_xact_id()
            WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());
        END IF;
    ELSE
        UPDATE "{schema}"."{prefix}relays" SET beats = beats + 1 WHERE token = of_token AND team = of_team
        RETURNING token INTO my_token;
        IF my_token IS NULL THEN RETURN; END IF;
    END IF;
    SELECT count(*) INTO has FROM "{schema}"."{prefix}shards" WHERE team = of_team AND token = my_token;
    IF cardinality(dead_tokens) > 0 OR cardinality(gives_back) > 0 OR (has < share AND EXISTS (
        SELECT FROM "{schema}"."{prefix}shards" s WHERE s.team = of_team AND (s.token IS NULL OR NOT EXISTS (
            SELECT FROM "{schema}"."{prefix}relays" r WHERE r.token = s.token))))
    THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('oneflight ' || '"{schema}"."{prefix}shards"'::regclass::oid::text, 7117));
        DELETE FROM "{schema}"."{prefix}relays" r USING unnest(dead_tokens, dead_beats) AS dead (token, beats)
        WHERE r.token = dead.token AND r.beats = dead.beats AND r.team = of_team;
        UPDATE "{schema}"."{prefix}shards" SET token = NULL
        WHERE team = of_team AND token = my_token AND shard = ANY (gives_back);
        SELECT count(*) INTO has FROM "{schema}"."{prefix}shards" WHERE team = of_team AND token = my_token;
        UPDATE "{schema}"."{prefix}shards" SET token = my_token WHERE team = of_team AND shard IN (
            SELECT s.shard FROM "{schema}"."{prefix}shards" s WHERE s.team = of_team AND NOT (s.shard = ANY (gives_back))
                AND (s.token IS NULL OR NOT EXISTS (
                    SELECT FROM "{schema}"."{prefix}relays" r WHERE r.token = s.token))
            ORDER BY s.shard LIMIT greatest(share - has, 0));
    END IF;
    my_shards := ARRAY(SELECT shard FROM "{schema}"."{prefix}shards" WHERE team = of_team AND token = my_token ORDER BY shard);
    SELECT coalesce(array_agg(r.token ORDER BY r.token), '{}'), coalesce(array_agg(r.beats ORDER BY r.token), '{}')
    INTO peer_tokens, peer_beats FROM "{schema}"."{prefix}relays" r WHERE r.team = of_team AND r.token <> my_token;
    SELECT min(p.due) - "{schema}"."{prefix}now"() INTO due_in
    FROM "{schema}"."{prefix}parked" p WHERE p.due IS NOT NULL;
    news := known_limit IS NULL
        OR known_limit::xid8 > pg_snapshot_xmax(pg_current_snapshot())
        OR EXISTS (SELECT FROM "{schema}"."{prefix}messages" m WHERE m.xid >= known_limit::xid8 AND m.shard = ANY (of_shards))
        OR EXISTS (SELECT FROM pg_snapshot_xip(known_snapshot::pg_snapshot) x
                   JOIN "{schema}"."{prefix}messages" m ON m.xid = x WHERE m.shard = ANY (of_shards));
END
$function$;

-- Everything as Debezium's outbox event router wants it, for who outgrows the relay. A connector that follows the WAL sees no
-- view: it follows `messages`, with these as its columns.
CREATE VIEW "{schema}"."{prefix}debezium" AS
SELECT id, coalesce(ordering_key, id::text) AS aggregateid, topic AS aggregatetype, topic AS type, payload, key AS idempotencykey,
       traceparent AS tracingspancontext, sent_at AS "timestamp", correlation_id, content_type
FROM "{schema}"."{prefix}messages";
