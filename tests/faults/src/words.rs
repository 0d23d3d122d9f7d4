//! What is said to databases, in their SQL.

/// What is said to a database.
pub struct Words {
    /// Makes the table of effects: a row for each execution in a transaction, so that a second one shows.
    pub prepare: &'static str,
    /// Names the schema, whatever an application has set.
    pub insert: &'static str,
    /// Draws the next number of an ordering key, whose row is locked from here on.
    pub number: &'static str,
    /// The payloads of messages that have not ended, and whether they are dead letters.
    pub left_over: &'static str,
    /// What applications leave behind on connections. Some of it fails, which is how it is left behind. `{stray}` stands
    /// for the key of a row that is never committed.
    pub left: &'static [&'static str],
    pub settings: &'static [&'static str],
}

pub const SELECT: &str = "SELECT key, mark FROM effects WHERE key LIKE $1 || '.%'";

pub const SQLITE: Words = Words {
    prepare: "CREATE TABLE IF NOT EXISTS effects (key text NOT NULL, mark text NOT NULL);
        CREATE TABLE IF NOT EXISTS lanes (lane text PRIMARY KEY, number bigint NOT NULL)",
    insert: "INSERT INTO main.effects (key, mark) VALUES ($1, $2)",
    number: "INSERT INTO main.lanes AS l VALUES ($1, 1) ON CONFLICT (lane) DO UPDATE SET number = l.number + 1 RETURNING number",
    left_over: "SELECT payload, state = 2 FROM oneflight_messages WHERE state <> 3",
    left: &[
        "BEGIN",
        "BEGIN; SELECT count(*) FROM effects",
        "BEGIN; SAVEPOINT s; SELECT count(*) FROM effects",
        "BEGIN; SELECT count(*) FROM effects; INSERT INTO missing VALUES (1)",
        "BEGIN; SAVEPOINT oneflight_work",
    ],
    settings: &[
        "PRAGMA foreign_keys = OFF",
        "PRAGMA synchronous = OFF",
        "PRAGMA busy_timeout = 0",
        "PRAGMA read_uncommitted = ON",
        "PRAGMA recursive_triggers = ON; PRAGMA ignore_check_constraints = ON",
        "PRAGMA cache_size = 1; PRAGMA temp_store = MEMORY",
    ],
};

pub const POSTGRES: Words = Words {
    prepare: "CREATE TABLE IF NOT EXISTS effects (key text NOT NULL, mark text NOT NULL);
        CREATE TABLE IF NOT EXISTS lanes (lane text PRIMARY KEY, number bigint NOT NULL);
        DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT INSERT ON effects TO stranger",
    insert: "INSERT INTO public.effects (key, mark) VALUES ($1, $2)",
    number: "INSERT INTO public.lanes AS l VALUES ($1, 1) ON CONFLICT (lane) DO UPDATE SET number = l.number + 1 RETURNING number",
    left_over: "SELECT m.payload, false FROM oneflight_messages m WHERE NOT EXISTS (
            SELECT FROM oneflight_receipts r WHERE r.kind IN (2, 4) AND r.span @> m.position AND m.position = ANY (r.positions))
        UNION ALL SELECT payload, due IS NULL FROM oneflight_parked",
    left: &[
        "BEGIN",
        "BEGIN; SAVEPOINT s; INSERT INTO public.effects VALUES ('{stray}', 'stray')",
        "BEGIN; SELECT 1 / 0",
        "BEGIN; INSERT INTO public.effects VALUES ('{stray}', 'stray'); SELECT 1 / 0",
        "BEGIN READ ONLY; SELECT 1",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.effects",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM public.effects",
        "BEGIN; SET LOCAL ROLE stranger; SET LOCAL search_path = pg_temp",
    ],
    settings: &[
        "SET search_path = pg_temp",
        "SET ROLE stranger",
        "SET default_transaction_isolation = 'serializable'",
        "SET default_transaction_isolation = 'repeatable read'",
        "SET default_transaction_read_only = on",
        "SET statement_timeout = 1",
        "SET lock_timeout = 1",
        "DISCARD ALL",
        "SELECT pg_advisory_lock(4711)",
    ],
};
