//! Our operations as procedures in the server, which refuse to run inside of a transaction.
//!
//! A pool may lend a connection that is still inside of somebody's transaction: `sqlx` knows of no `BEGIN` whose answer
//! nobody waited for, and of none that was sent as text. What a plain statement does there is seen by nobody else, and
//! rolled back in the end. Neither the answer to a statement nor anything that a statement can read tells for certain:
//! a transaction that was just begun differs from none by nothing but its age. But the server lets a *procedure* end
//! the transaction that it runs in if that is the call's own, and only then. So each of ours begins with `COMMIT`:
//!
//! * outside of a transaction, that ends the call's own, in which nothing was done, and begins another;
//! * inside of one, it is an error (2D000), before anything was done; in one that has failed already, the call is
//!   (25P02). The connection is closed then, which rolls back what its owner had left, and another one is asked.
//!
//! The call is one statement and one round trip; see [`call`](super::call) for how it is put to the server. What the
//! session has for default transactions does not matter: each operation says what it needs. Nor does it matter how the
//! session writes bytes where an answer is text. In a session that takes what is bound for another encoding than it is, a
//! call would concern another key, and so is an error as well (0A000).
//!
//! The text of a procedure is part of a [migration](super::schema): one that was released is changed by another
//! migration, and processes of both versions may call it meanwhile.

use super::names::Names;
use super::sql::{INSTANT, PATH, PLAIN, RECORD, absent, notify};

/// A procedure of ours.
pub(super) struct Procedure {
    pub(super) name: &'static str,
    /// The types of what it takes, `$1` and on.
    pub(super) takes: &'static [&'static str],
    /// The types of the columns of its one row; null if there is nothing to tell.
    pub(super) answers: &'static [&'static str],
    /// What it does, once it is known to be outside of a transaction. `{into}` receives the answer.
    body: fn(&Names) -> String,
}

/// The instant, a record as it is read, and, in a claim's answer, whether the claim wrote it.
const RECORD_AND_FLAG: &[&str] = &[
    "bigint", "bytea", "bigint", "bytea", "bigint", "bigint", "bigint", "bigint", "bigint", "bytea", "boolean",
    "boolean",
];

/// Takes scope, key, fingerprint, holder, lease, takeover, the number of the claim's lock, and whether the request is to
/// be held.
pub(super) const CLAIM: Procedure = Procedure {
    name: "claim",
    takes: &[
        "text", "text", "bytea", "bytea", "bigint", "bigint", "bigint", "boolean",
    ],
    answers: RECORD_AND_FLAG,
    body: claim,
};

/// Takes scope, key, token, and lease.
pub(super) const RENEW: Procedure = Procedure {
    name: "renew",
    takes: &["text", "text", "bigint", "bigint"],
    answers: &["bigint"],
    body: |names| {
        format!(
            "WITH {INSTANT}, changed AS (
                UPDATE {records} SET lease_expires_at = greatest(lease_expires_at, now + $4) FROM instant
                WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                RETURNING token)
             SELECT token {{into}} FROM changed",
            records = names.of("records"),
        )
    },
};

/// Takes scope, key, token, what is to be left of the lease, and the number of those who watch with their channel.
pub(super) const END_LEASE: Procedure = Procedure {
    name: "end_lease",
    takes: &["text", "text", "bigint", "bigint", "bigint", "text"],
    answers: &["bigint", "text"],
    body: |names| {
        format!(
            "WITH {INSTANT}, changed AS (
                UPDATE {records} SET lease_expires_at = now + $4 FROM instant
                WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                RETURNING token)
             SELECT token, CASE WHEN $4 = 0 THEN {notify} END {{into}} FROM changed",
            records = names.of("records"),
            notify = notify("$6", "$5"),
        )
    },
};

/// Takes scope, key, token, result, retention, and the number of those who watch with their channel.
pub(super) const COMPLETE: Procedure = Procedure {
    name: "complete",
    takes: &["text", "text", "bigint", "bytea", "bigint", "bigint", "text"],
    answers: &["bigint", "text"],
    body: |names| {
        format!(
            "WITH {INSTANT}, changed AS (
                UPDATE {records}
                SET lease_expires_at = NULL, result = $4, completed_at = now, expires_at = now + $5, held = false
                FROM instant
                WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                RETURNING token)
             SELECT token, {notify} {{into}} FROM changed",
            records = names.of("records"),
            notify = notify("$7", "$6"),
        )
    },
};

/// Takes scope, key, token, and the number of those who watch with their channel.
pub(super) const RELEASE: Procedure = Procedure {
    name: "release",
    takes: &["text", "text", "bigint", "bigint", "text"],
    answers: &["bigint", "text"],
    body: |names| {
        format!(
            "WITH changed AS (
                DELETE FROM {records}
                WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                RETURNING token)
             SELECT token, {notify} {{into}} FROM changed",
            records = names.of("records"),
            notify = notify("$5", "$4"),
        )
    },
};

/// Takes scope and key.
pub(super) const LOAD: Procedure = Procedure {
    name: "load",
    takes: &["text", "text"],
    answers: RECORD_AND_FLAG.split_at(11).0,
    body: |names| {
        format!(
            "WITH {INSTANT} SELECT now, {RECORD} {{into}} FROM {records}, instant WHERE scope = $1 AND key = $2",
            records = names.of("records"),
        )
    },
};

/// Takes the most rows. What others are at is left to them, and to the next time. The instant is a scalar here: as such
/// it bounds the index, which would otherwise be read to its end for want of a full batch.
pub(super) const PURGE: Procedure = Procedure {
    name: "purge",
    takes: &["bigint"],
    answers: &["bigint"],
    body: |names| {
        format!(
            "WITH {INSTANT}, purged AS (
                DELETE FROM {records} WHERE ctid = ANY (ARRAY(
                    SELECT r.ctid FROM {records} r WHERE r.expires_at <= (SELECT now FROM instant)
                    ORDER BY r.expires_at LIMIT $1 FOR UPDATE OF r SKIP LOCKED))
                RETURNING 1)
             SELECT count(*) {{into}} FROM purged",
            records = names.of("records"),
        )
    },
};

/// These, as a migration creates them. They name the schema of our tables, since a search path is the session's;
/// if it is not known yet, the script puts in the first one of the search path that it is run with.
pub(super) fn create(procedures: &[&Procedure], names: &Names) -> String {
    const SCHEMA: &str = "oneflight schema";

    if names.schema.is_some() {
        return create_in(procedures, names);
    }
    let in_place_of_it = Names {
        schema: Some(SCHEMA.to_owned()),
        ..names.clone()
    };
    format!(
        r#"DO $schema$ BEGIN EXECUTE replace($script${script}$script$,
    '"{SCHEMA}"', '"' || replace(current_schema(), '"', '""') || '"'); END $schema$;
"#,
        script = create_in(procedures, &in_place_of_it),
    )
}

fn create_in(procedures: &[&Procedure], names: &Names) -> String {
    procedures.iter().map(|procedure| procedure.create(names)).collect()
}

impl Procedure {
    fn create(&self, names: &Names) -> String {
        let answers = self.answers.iter().enumerate();
        let columns = answers.clone().map(|(at, kind)| format!("INOUT a{at} {kind}"));
        let parameters: Vec<String> = self.takes.iter().map(ToString::to_string).chain(columns).collect();
        let into: Vec<String> = answers.map(|(at, _)| format!("a{at}")).collect();
        let body = (self.body)(names).replace("{into}", &format!("INTO {}", into.join(", ")));
        format!(
            "\nCREATE PROCEDURE {name}({parameters}) LANGUAGE plpgsql AS $procedure$
DECLARE
    encoding text := pg_catalog.current_setting('client_encoding');
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    {PLAIN};
    {PATH};
    IF encoding <> 'UTF8' THEN
        RAISE feature_not_supported USING MESSAGE = 'the session has another encoding than its client: ' || encoding;
    END IF;
    {body};
END
$procedure$;\n",
            name = names.of(self.name),
            parameters = parameters.join(", "),
        )
    }
}

/// A lease that is over, and a mandate to take over from whoever held it.
fn grantable(r: &str, now: &str) -> String {
    format!(
        "({absent} OR ({r}.completed_at IS NULL AND {r}.fingerprint IS NOT DISTINCT FROM $3
           AND {r}.lease_expires_at <= {now}
           AND ($6 = {r}.token OR (NOT {r}.held AND ($6 = -1 OR {r}.holder = $4))))) IS TRUE",
        absent = absent(r, now)
    )
}

/// Reads, decides, and writes what follows from that.
///
/// * `seen` is the record as it stood when the statement began. If it is an answer, nothing else happens.
/// * `drawn` is empty unless `seen` may be claimed *and* nobody else is deciding about this identity.
/// * `granted` writes. It decides once more, on the row as it is by then: a holder may have come back since. If it may
///   not be claimed any more, it is written as it was, which makes this statement answer with it.
fn claim(names: &Names) -> String {
    format!(
        "WITH {INSTANT},
     seen AS MATERIALIZED (
        SELECT {RECORD}, {grantable_seen} AS grantable FROM {records} r, instant WHERE scope = $1 AND key = $2),
     drawn AS MATERIALIZED (
        SELECT pg_catalog.nextval('{tokens}'::pg_catalog.regclass) AS token
        WHERE CASE WHEN coalesce((SELECT grantable FROM seen), true) THEN pg_catalog.pg_try_advisory_xact_lock($7) ELSE false END),
     granted AS (
        INSERT INTO {records} AS r (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, held)
        SELECT $1, $2, token, $3, $4, 1, now, now + $5, $8 FROM drawn, instant
        ON CONFLICT (scope, key) DO UPDATE
        SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at, expires_at,
             result, held)
          = (SELECT EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder,
                    CASE WHEN {absent} THEN 1
                         WHEN r.holder = EXCLUDED.holder AND NOT r.held THEN r.attempt
                         ELSE least(r.attempt + 1, 4294967295) END,
                    CASE WHEN NOT {absent} AND (r.holder <> EXCLUDED.holder OR r.held) THEN r.token END,
                    EXCLUDED.claimed_at, EXCLUDED.lease_expires_at, NULL::bigint, NULL::bigint, NULL::bytea,
                    EXCLUDED.held OR (r.held AND NOT {absent})
             WHERE {grantable}
             UNION ALL
             SELECT r.token, r.fingerprint, r.holder, r.attempt, r.took_over, r.claimed_at, r.lease_expires_at,
                    r.completed_at, r.expires_at, r.result, r.held
             WHERE NOT {grantable})
        RETURNING {RECORD})
     SELECT now, record.*, record.token = drawn.token {{into}}
     FROM instant LEFT JOIN drawn ON true LEFT JOIN (
        SELECT {RECORD} FROM granted
        UNION ALL
        SELECT {RECORD} FROM seen WHERE NOT EXISTS (SELECT FROM granted)) record ON true",
        records = names.of("records"),
        tokens = names.of("tokens").replace('\'', "''"),
        grantable_seen = grantable("r", "now"),
        absent = absent("r", "EXCLUDED.claimed_at"),
        grantable = grantable("r", "EXCLUDED.claimed_at"),
    )
}
