//! The text of our statements, written once for the names of a store, so that each connection prepares each of them
//! once.
//!
//! Every statement takes its time from the server's clock, once, and what it asks of a record it asks in the words of
//! [`decide`](oneflight::store::decide). Only [`claim`](Statements::claim) decides in SQL, because it answers and
//! writes in one round trip; a test holds both against each other, case by case.
//!
//! What is not part of a transaction of ours is a call of a [procedure](super::procedures), or follows [`LEAVE`].

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::call::{Calls, Message, Value};
use super::names::{Keys, Names};
use super::procedures::{
    BEGIN_STEPS, CLAIM, CLAIM_TOGETHER, COMPLETE, COMPLETE_TOGETHER, END_LEASE, LOAD, LOAD_STEPS, PURGE, RECORD_STEP,
    RELEASE, RENEW, RENEW_TOGETHER,
};
use super::sql::{INSTANT, LEAVE, PLAIN, RECORD, notify};
use super::step_statements::StepStatements;
use super::transaction_statements::{ForeignStatements, look, record};
use oneflight::correlation::CorrelationId;
use oneflight::record::HolderId;

/// How a transaction is isolated. Unless set, the server's default for the connection applies.
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
    pub(super) keepalive: String,
    pub(super) claim: Calls,
    pub(super) claim_together: Calls,
    pub(super) renew: Calls,
    pub(super) renew_together: Calls,
    pub(super) end_lease: Calls,
    pub(super) complete: Calls,
    pub(super) complete_together: Calls,
    pub(super) release: Calls,
    pub(super) load: Calls,
    pub(super) purge: Calls,
    pub(super) begin_steps: Calls,
    pub(super) record_step: Calls,
    pub(super) load_steps: Calls,
    pub(super) steps: StepStatements,
    in_doubt: String,
    pub(super) look: SqlStr,
    pub(super) record: SqlStr,
    pub(super) foreign: ForeignStatements,
    pub(super) incarnate: SqlStr,
    incarnation: String,
    channel: String,
}

impl Statements {
    pub(super) fn new(names: &Names, isolation: Option<Isolation>, patience: Duration) -> Self {
        let sql = |text: String| AssertSqlSafe(text).into_sql_str();
        let records = names.of("records");
        let channel = format!("'{}'", names.channel());
        let incarnation = names.of("incarnation");
        let level = match isolation {
            None => "",
            Some(Isolation::ReadCommitted) => ", ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => ", ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => ", ISOLATION LEVEL SERIALIZABLE",
        };
        let begin = format!("{LEAVE}; BEGIN READ WRITE{level}; {PLAIN}");
        let goes_on = names.of("goes_on");
        Self {
            steps: StepStatements::new(names, &begin),
            begin,
            keepalive: keepalive(names, patience),
            claim: Calls::of(&CLAIM, names),
            claim_together: Calls::of(&CLAIM_TOGETHER, names),
            renew: Calls::of(&RENEW, names),
            renew_together: Calls::of(&RENEW_TOGETHER, names),
            end_lease: Calls::of(&END_LEASE, names),
            complete: Calls::of(&COMPLETE, names),
            complete_together: Calls::of(&COMPLETE_TOGETHER, names),
            release: Calls::of(&RELEASE, names),
            load: Calls::of(&LOAD, names),
            purge: Calls::of(&PURGE, names),
            begin_steps: Calls::of(&BEGIN_STEPS, names),
            record_step: Calls::of(&RECORD_STEP, names),
            load_steps: Calls::of(&LOAD_STEPS, names),
            in_doubt: format!(
                "WITH {INSTANT} SELECT now, {RECORD}, scope, key FROM {records}, instant
                 WHERE completed_at IS NULL AND lease_expires_at <= now
                   AND NOT {goes_on}(scope, key, token)"
            ),
            look: sql(look(names, ["$1", "$2", "$3"])),
            record: sql(record(
                names,
                [
                    "$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12",
                ],
                "ours, EXISTS (SELECT FROM written)",
            )),
            foreign: ForeignStatements::new(names),
            // Whatever transactions are usually like. Nobody else's is waited for.
            incarnate: sql(format!(
                "{LEAVE}; BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '100ms'; SELECT {}(); COMMIT",
                names.of("incarnate")
            )),
            incarnation,
            channel,
        }
    }

    /// Asks what became of a transaction, and of which incarnation of the server that answer is.
    pub(super) fn ended(&self, number: &str) -> Message {
        Message::outside(&format!(
            "SELECT pg_xact_status({}::xid8), (SELECT id::text FROM {})",
            Value::Text(number),
            self.incarnation,
        ))
    }

    /// Terminates the session that is in a transaction, if it is in such a state, and is still of this incarnation of the
    /// server. Answers whether there was one that may be terminated.
    pub(super) fn terminate(&self, number: &str, incarnation: Option<&str>, state: &str) -> Message {
        let same = incarnation.map_or_else(String::new, |it| {
            format!("AND (SELECT id::text FROM {}) = {}", self.incarnation, Value::Text(it))
        });
        Message::outside(&format!(
            "SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity
             WHERE backend_xid = {}::xid8::xid AND state LIKE {} {same}",
            Value::Text(number),
            Value::Text(state),
        ))
    }

    /// Begins the transaction of a step; see [`begin`](Self::begin).
    pub(super) fn begin_step(&self, turn: &str, correlation: Option<&CorrelationId>) -> SqlStr {
        let named = correlation.map(named).unwrap_or_default();
        self.steps.begin(turn, &format!("{}{named}", self.keepalive))
    }

    /// What is in doubt, with a larger token than `after`.
    pub(super) fn in_doubt(&self, after: i64, limit: i64) -> Message {
        let Self { in_doubt, .. } = self;
        Message::outside(&format!("{in_doubt} AND token > {after} ORDER BY token LIMIT {limit}"))
    }

    /// Notifies those that watch.
    pub(super) fn notify(&self, keys: Keys) -> SqlStr {
        let watch = Value::Number(keys.watch).to_string();
        AssertSqlSafe(format!("SELECT {}", notify(&self.channel, &watch))).into_sql_str()
    }

    /// Begins a transaction, tries to get the claim's lock, notes in the transaction whose turn it is, and sets the
    /// savepoint of the work: one simple query, hence one round trip, in place of a bare `BEGIN`.
    ///
    /// The lock is tried in a statement of its own: what the next one sees was committed before the lock was free. That
    /// one also names the application by the correlation id, if there is one, for as long as the transaction lasts.
    pub(super) fn begin(&self, keys: Keys, holder: HolderId, correlation: Option<&CorrelationId>) -> SqlStr {
        let Self { begin, .. } = self;
        let turn = turn(holder);
        AssertSqlSafe(format!(
            "{begin}; SELECT pg_catalog.set_config('oneflight.turn', \
             CASE WHEN pg_catalog.pg_try_advisory_xact_lock({claim}) THEN '{turn}' ELSE '' END, true){keepalive}{named}; \
             SAVEPOINT oneflight_work",
            claim = keys.claim,
            keepalive = self.keepalive,
            named = correlation.map(named).unwrap_or_default(),
        ))
        .into_sql_str()
    }
}

/// Has the server notice, for the length of the transaction, that its client is gone without a word: such a transaction
/// would keep its locks, and the claim, for hours. A setting that is stricter already stays. A socket that is not TCP
/// has none of this.
fn keepalive(names: &Names, patience: Duration) -> String {
    /// The number of probes that are not answered before a client is taken for gone.
    const PROBES: u32 = 3;

    let idle = patience.as_secs().clamp(1, 3_600);
    let interval = (idle / u64::from(PROBES)).max(1);
    format!(", {}({idle}, {interval}, {PROBES})", names.of("keepalive"))
}

/// Has the server show the correlation id as the name of the application, in its log (`%a`) and in `pg_stat_activity`, for
/// the length of the transaction.
fn named(correlation: &CorrelationId) -> String {
    format!(
        ", pg_catalog.set_config('application_name', {}, true)",
        Value::Text(shown(correlation))
    )
}

/// What the server keeps of a correlation id as a name. It would cut a longer one itself, with a notice.
pub(super) fn shown(correlation: &CorrelationId) -> &str {
    const MAX_BYTES: usize = 63;

    let id = correlation.as_str();
    // All ASCII, so that there is a character's end everywhere.
    id.get(..MAX_BYTES).unwrap_or(id)
}

/// What stands in `oneflight.turn` while this holder has the lock: it is gone with the transaction.
pub(super) fn turn(holder: HolderId) -> String {
    format!("{:032x}", u128::from_be_bytes(*holder.as_bytes()))
}
