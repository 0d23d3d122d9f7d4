//! The text of our statements, written once for the names of a store, so that each connection prepares each of them
//! once.
//!
//! Every statement takes its time from the server's clock, once, and what it asks of a record it asks in the words of
//! [`decide`](crate::store::decide). Only [`claim`](Statements::claim) decides in SQL, because it answers and writes in
//! one round trip; a test holds both against each other, case by case.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::names::{Keys, Names};
use crate::record::HolderId;

/// The columns of a record, in the order in which it is read.
const RECORD: &str =
    "fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result";

/// One instant for the whole of a statement, in milliseconds.
const INSTANT: &str = "instant AS MATERIALIZED (
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now)";

/// How a transaction may be isolated. The server's default for the connection unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see what was committed before the first.
    RepeatableRead,
    /// As if transactions ran one after the other; those for which that cannot be are rolled back.
    Serializable,
}

/// The statements of one store.
#[derive(Debug)]
pub(super) struct Statements {
    begin: String,
    keepalive: String,
    pub(super) claim: SqlStr,
    pub(super) renew: SqlStr,
    pub(super) complete: SqlStr,
    pub(super) release: SqlStr,
    pub(super) load: SqlStr,
    pub(super) purge: SqlStr,
    pub(super) in_doubt: SqlStr,
    pub(super) look: SqlStr,
    pub(super) record: SqlStr,
    pub(super) notify: SqlStr,
}

impl Statements {
    pub(super) fn new(names: &Names, isolation: Option<Isolation>, patience: Duration) -> Self {
        let sql = |text: String| AssertSqlSafe(text).into_sql_str();
        let records = names.of("records");
        let tokens = names.of("tokens").replace('\'', "''");
        // Tells whoever watches, if anybody does: see `listen`.
        let notify = |watch: &str| {
            format!(
                "CASE WHEN NOT pg_try_advisory_xact_lock({watch}) \
                      THEN pg_notify('{}', {watch}::text)::text END",
                names.channel()
            )
        };
        // Past its retention, a record counts as absent.
        let absent = |r: &str, now: &str| format!("({r}.completed_at IS NOT NULL AND {r}.expires_at <= {now})");
        // A lease that is over, and a mandate to take over from whoever held it.
        let grantable = |r: &str, now: &str| {
            format!(
                "({absent} OR ({r}.completed_at IS NULL AND {r}.fingerprint IS NOT DISTINCT FROM $3
                   AND {r}.lease_expires_at <= {now} AND ({r}.holder = $4 OR $6 IN (-1, {r}.token)))) IS TRUE",
                absent = absent(r, now)
            )
        };
        let level = match isolation {
            None => "",
            Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
        };
        Self {
            begin: format!("BEGIN{level}"),
            keepalive: keepalive(patience),
            claim: sql(claim(&records, &tokens, &absent, &grantable)),
            renew: sql(format!(
                "WITH {INSTANT}, changed AS (
                    UPDATE {records} SET lease_expires_at = now + $4 FROM instant
                    WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                    RETURNING token)
                 SELECT token, CASE WHEN $4 = 0 THEN {notify} END FROM changed",
                notify = notify("$5")
            )),
            complete: sql(format!(
                "WITH {INSTANT}, changed AS (
                    UPDATE {records}
                    SET lease_expires_at = NULL, result = $4, completed_at = now, expires_at = now + $5 FROM instant
                    WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                    RETURNING token)
                 SELECT token, {notify} FROM changed",
                notify = notify("$6")
            )),
            release: sql(format!(
                "WITH changed AS (
                    DELETE FROM {records}
                    WHERE scope = $1 AND key = $2 AND token = $3 AND completed_at IS NULL
                    RETURNING token)
                 SELECT token, {notify} FROM changed",
                notify = notify("$4")
            )),
            load: sql(format!(
                "WITH {INSTANT} SELECT now, {RECORD} FROM {records}, instant WHERE scope = $1 AND key = $2"
            )),
            // What others are at is left to them, and to the next time. The instant is a scalar here: as such it bounds
            // the index, which would otherwise be read to its end for want of a full batch.
            purge: sql(format!(
                "WITH {INSTANT}, purged AS (
                    DELETE FROM {records} WHERE ctid = ANY (ARRAY(
                        SELECT r.ctid FROM {records} r WHERE r.expires_at <= (SELECT now FROM instant)
                        ORDER BY r.expires_at LIMIT $1 FOR UPDATE OF r SKIP LOCKED))
                    RETURNING 1)
                 SELECT count(*) FROM purged"
            )),
            in_doubt: sql(format!(
                "WITH {INSTANT} SELECT now, {RECORD}, scope, key FROM {records}, instant
                 WHERE token > $1 AND completed_at IS NULL AND lease_expires_at <= now ORDER BY token LIMIT $2"
            )),
            look: sql(format!(
                "WITH {INSTANT} SELECT now, r.*, current_setting('oneflight.turn', true) IS NOT DISTINCT FROM $3
                 FROM instant LEFT JOIN (
                    SELECT {RECORD} FROM {records} WHERE scope = $1 AND key = $2) r ON true"
            )),
            record: sql(format!(
                "WITH {INSTANT}, turn AS MATERIALIZED (
                    SELECT current_setting('oneflight.turn', true) IS NOT DISTINCT FROM $10 AS ours),
                 written AS (
                    INSERT INTO {records} AS r (scope, key, token, fingerprint, holder, attempt, took_over, claimed_at,
                                                completed_at, expires_at, result)
                    SELECT $1, $2, nextval('{tokens}'), $3, $4, $5, $6, now, now, now + $7, $8
                    FROM instant, turn WHERE ours
                    ON CONFLICT (scope, key) DO UPDATE
                    SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at,
                         expires_at, result)
                      = (EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder, EXCLUDED.attempt, EXCLUDED.took_over,
                         EXCLUDED.claimed_at, NULL, EXCLUDED.completed_at, EXCLUDED.expires_at, EXCLUDED.result)
                    WHERE {absent} OR (r.token = $11 AND r.lease_expires_at <= EXCLUDED.claimed_at)
                    RETURNING pg_current_xact_id()::text AS transaction, {notify})
                 SELECT ours, (SELECT transaction FROM written) FROM turn",
                absent = absent("r", "EXCLUDED.claimed_at"),
                notify = notify("$9")
            )),
            notify: sql(format!("SELECT {}", notify("$1"))),
        }
    }

    /// Begins a transaction, tries to get the claim's lock, notes in the transaction whose turn it is, and sets the
    /// savepoint of the work: one simple query, hence one round trip, in place of a bare `BEGIN`.
    ///
    /// The lock is tried in a statement of its own: what the next one sees was committed before the lock was free.
    pub(super) fn begin(&self, keys: Keys, holder: HolderId) -> SqlStr {
        let Self { begin, .. } = self;
        let turn = turn(holder);
        AssertSqlSafe(format!(
            "{begin}; SELECT set_config('oneflight.turn', \
             CASE WHEN pg_try_advisory_xact_lock({claim}) THEN '{turn}' ELSE '' END, true){keepalive}; \
             SAVEPOINT oneflight_work",
            claim = keys.claim,
            keepalive = self.keepalive,
        ))
        .into_sql_str()
    }
}

/// Has the server notice, for the length of the transaction, that its client is gone without a word: such a transaction
/// would keep its locks, and the claim, for hours. What is stricter already stays; a socket that is not TCP has none of this.
fn keepalive(patience: Duration) -> String {
    /// How many probes are not answered before a client is taken for gone.
    const PROBES: u32 = 3;

    let setting = |name: &str, most: u64| {
        format!(
            ", set_config('{name}', \
             least(nullif(current_setting('{name}')::bigint, 0), {most})::text, true)"
        )
    };
    let idle = patience.as_secs().clamp(1, 3_600);
    let interval = (idle / u64::from(PROBES)).max(1);
    [
        setting("tcp_keepalives_idle", idle),
        setting("tcp_keepalives_interval", interval),
        setting("tcp_keepalives_count", PROBES.into()),
    ]
    .concat()
}

/// What stands in `oneflight.turn` while this holder has the lock: it is gone with the transaction.
pub(super) fn turn(holder: HolderId) -> String {
    format!("{:032x}", u128::from_be_bytes(*holder.as_bytes()))
}

/// Reads, decides, and writes what follows from that.
///
/// * `seen` is the record as it stood when the statement began. If it is an answer, nothing else happens.
/// * `drawn` is empty unless `seen` may be claimed *and* nobody else is deciding about this identity.
/// * `granted` writes. It decides once more, on the row as it is by then: a holder may have come back since. If it may
///   not be claimed any more, it is written as it was, which makes this statement answer with it.
fn claim(
    records: &str,
    tokens: &str,
    absent: &dyn Fn(&str, &str) -> String,
    grantable: &dyn Fn(&str, &str) -> String,
) -> String {
    format!(
        "WITH {INSTANT},
         seen AS MATERIALIZED (
            SELECT {RECORD}, {grantable_seen} AS grantable FROM {records} r, instant WHERE scope = $1 AND key = $2),
         drawn AS MATERIALIZED (
            SELECT nextval('{tokens}') AS token
            WHERE CASE WHEN coalesce((SELECT grantable FROM seen), true) THEN pg_try_advisory_xact_lock($7) ELSE false END),
         granted AS (
            INSERT INTO {records} AS r (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at)
            SELECT $1, $2, token, $3, $4, 1, now, now + $5 FROM drawn, instant
            ON CONFLICT (scope, key) DO UPDATE
            SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at, expires_at,
                 result)
              = (SELECT EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder,
                        CASE WHEN {absent} THEN 1
                             WHEN r.holder = EXCLUDED.holder THEN r.attempt
                             ELSE least(r.attempt + 1, 4294967295) END,
                        CASE WHEN NOT {absent} AND r.holder <> EXCLUDED.holder THEN r.token END,
                        EXCLUDED.claimed_at, EXCLUDED.lease_expires_at, NULL::bigint, NULL::bigint, NULL::bytea
                 WHERE {grantable}
                 UNION ALL
                 SELECT r.token, r.fingerprint, r.holder, r.attempt, r.took_over, r.claimed_at, r.lease_expires_at,
                        r.completed_at, r.expires_at, r.result
                 WHERE NOT {grantable})
            RETURNING {RECORD})
         SELECT now, record.*, record.token = drawn.token
         FROM instant LEFT JOIN drawn ON true LEFT JOIN (
            SELECT {RECORD} FROM granted
            UNION ALL
            SELECT {RECORD} FROM seen WHERE NOT EXISTS (SELECT FROM granted)) record ON true",
        grantable_seen = grantable("r", "now"),
        absent = absent("r", "EXCLUDED.claimed_at"),
        grantable = grantable("r", "EXCLUDED.claimed_at"),
    )
}
