//! How the server is set up, and what of it breaks a promise.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::{Duration, timeout};

use super::super::PostgresStore;
use super::super::borrowed::Borrowed;
use super::super::call::Value;
use super::super::records::{column, only};
use super::super::schema;
use oneflight::store::{Finding, Soundness, StoreError};

/// The oldest server that there is all of what we use in.
const OLDEST: i64 = 130_000;
/// Clocks that differ by less differ by nothing that matters, in milliseconds.
const SAME_CLOCK: i64 = 2_000;
/// A limit that is shorter may end what only waits for its turn, in milliseconds.
const SHORTEST_LIMIT: i64 = 5_000;
/// Records that are past their retention for longer are not purged, in milliseconds.
const PURGED_WITHIN: i64 = 24 * 60 * 60 * 1000;
/// So many rows that are dead are a matter of course.
const FEW_DEAD_ROWS: i64 = 10_000;
/// How long a second session is waited for.
const PROBE: Duration = Duration::from_secs(2);

const SETTINGS: &str = "SELECT name::text, setting::text FROM pg_settings WHERE name IN (
    'default_transaction_isolation', 'max_locks_per_transaction', 'max_connections', 'superuser_reserved_connections',
    'fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'statement_timeout', 'lock_timeout',
    'idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout', 'autovacuum', 'track_counts',
    'server_version', 'server_version_num')";

/// What the server is set to, by name.
struct Settings(HashMap<String, String>);

impl Settings {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |it| it)
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    fn is_off(&self, name: &str) -> bool {
        self.text(name) == "off"
    }
}

pub(super) async fn all(store: &PostgresStore) -> Result<Vec<Finding>, StoreError> {
    let rows = store.answer_to(SETTINGS).await?;
    let settings = rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?)));
    let settings = Settings(settings.collect::<Result<_, StoreError>>()?);
    let shared = sessions(store).await;
    let mut findings = vec![
        version(&settings),
        isolation(&settings),
        durability(&settings),
        locks(&settings),
        connections(store, &settings),
        limits(&settings),
        pooler(store, &shared),
        notifications(&shared),
    ];
    for (name, asked) in [
        ("clock", clock(store).await),
        ("schema", version_of_schema(store).await),
        ("role of the server", recovery(store).await),
        ("replication", replication(store, &settings).await),
        ("rights", rights(store).await),
        ("autovacuum", autovacuum(store, &settings).await),
        ("retention", retention(store).await),
    ] {
        let unknown = |error| Finding::new(name, Soundness::Unknown, format!("it could not be asked for: {error}"));
        findings.push(asked.unwrap_or_else(unknown));
    }
    Ok(findings)
}

fn version(settings: &Settings) -> Finding {
    let found = settings.text("server_version");
    match settings.number("server_version_num") {
        OLDEST.. => Finding::new("version", Soundness::Sound, found),
        0 => Finding::new("version", Soundness::Unknown, "the server does not say it"),
        _ => Finding::new("version", Soundness::Broken, found).advise("Upgrade the server to PostgreSQL 13 or newer."),
    }
}

fn isolation(settings: &Settings) -> Finding {
    let found = settings.text("default_transaction_isolation");
    match found {
        "read committed" => Finding::new("isolation", Soundness::Sound, found),
        _ => Finding::new("isolation", Soundness::Remarkable, found).advise(
            "Call `run_in_tx_retrying`, or set `isolation` in the options: above READ COMMITTED the server rolls some transactions back.",
        ),
    }
}

fn durability(settings: &Settings) -> Finding {
    let names = ["fsync", "full_page_writes", "synchronous_commit"];
    let found = names.map(|name| format!("{name} = {}", settings.text(name))).join(", ");
    let finding = |verdict| Finding::new("durability", verdict, found.as_str());
    match names.iter().find(|name| settings.is_off(name)) {
        Some(off) => finding(Soundness::Broken).advise(format!(
            "Turn {off} on: after a crash, a mutation whose claim or record was acknowledged may be done again."
        )),
        None if names.iter().any(|name| settings.text(name).is_empty()) => {
            Finding::new("durability", Soundness::Unknown, "the server does not say all of it")
        }
        None => finding(Soundness::Sound),
    }
}

fn locks(settings: &Settings) -> Finding {
    let each = settings.number("max_locks_per_transaction");
    let all = each * settings.number("max_connections");
    let found = format!("{each} for each of the connections, {all} in all");
    match each {
        64.. => Finding::new("locks", Soundness::Sound, found),
        0 => Finding::new("locks", Soundness::Unknown, "the server does not say it"),
        _ => Finding::new("locks", Soundness::Remarkable, found).advise(
            "Set max_locks_per_transaction to 64 or more: each claim that is decided about and each request that is waited for has one.",
        ),
    }
}

fn connections(store: &PostgresStore, settings: &Settings) -> Finding {
    let most = settings.number("max_connections") - settings.number("superuser_reserved_connections");
    let ours = i64::from(store.pool.options().get_max_connections());
    let found = format!("{most} for all, and up to {ours} for each pool like this one");
    match ours * 2 > most {
        false => Finding::new("connections", Soundness::Sound, found),
        true => Finding::new("connections", Soundness::Remarkable, found)
            .advise("Allow each process fewer connections, or put a pooler in between: two processes get none here."),
    }
}

fn limits(settings: &Settings) -> Finding {
    let names = [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "idle_session_timeout",
    ];
    let set: Vec<_> = names.into_iter().filter(|name| settings.number(name) > 0).collect();
    let found = set.iter().map(|name| format!("{name} = {} ms", settings.number(name)));
    let found = found.collect::<Vec<_>>().join(", ");
    match set.iter().find(|name| settings.number(name) < SHORTEST_LIMIT) {
        _ if set.is_empty() => Finding::new("limits of time", Soundness::Sound, "none"),
        None => Finding::new("limits of time", Soundness::Sound, found),
        Some(short) => Finding::new("limits of time", Soundness::Remarkable, found).advise(format!(
            "Set {short} to 5 s or more for this role: what merely waits for its turn is ended by it."
        )),
    }
}

/// Whether two sessions are two, or `None` if that could not be found out.
async fn sessions(store: &PostgresStore) -> Option<bool> {
    let probe = async {
        let mut one = Borrowed::within(PROBE, &store.pool).await?;
        let mut other = Borrowed::within(PROBE, &store.pool).await?;
        let number = |row: PgRow| row.try_get::<i32, _>(0);
        let ask = "BEGIN; ROLLBACK; SELECT pg_backend_pid()";
        let first = number(one.fetch_one(AssertSqlSafe(ask)).await?)?;
        // A pooler that shares sessions gives the one that is idle to the next that begins a transaction.
        let second = number(other.fetch_one(AssertSqlSafe("BEGIN; SELECT pg_backend_pid()")).await?)?;
        let again = number(one.fetch_one(AssertSqlSafe(ask)).await?)?;
        other.execute(AssertSqlSafe("ROLLBACK")).await?;
        one.give_back();
        other.give_back();
        Ok::<bool, sqlx::Error>(first != again || first == second)
    };
    timeout(PROBE * 2, probe).await.ok()?.ok()
}

fn pooler(store: &PostgresStore, shared: &Option<bool>) -> Finding {
    let finding = |verdict, found: &str| Finding::new("pooler", verdict, found);
    match (shared, store.prepares) {
        (Some(false), _) => finding(Soundness::Sound, "sessions are not shared between transactions"),
        (Some(true), false) => finding(Soundness::Sound, "sessions are shared, and nothing is prepared in them"),
        (Some(true), true) => finding(Soundness::Remarkable, "sessions are shared between transactions").advise(
            "Have the pooler keep track of prepared statements (PgBouncer: max_prepared_statements), or set `without_prepared_statements`.",
        ),
        (None, _) => finding(Soundness::Unknown, "two sessions at a time could not be had"),
    }
}

fn notifications(shared: &Option<bool>) -> Finding {
    let finding = |verdict, found: &str| Finding::new("notifications", verdict, found);
    match shared {
        Some(false) => finding(Soundness::Sound, "a session can listen"),
        Some(true) => finding(Soundness::Remarkable, "nothing is heard in a session that is shared")
            .advise("Nothing has to be done: calls that wait ask from time to time; a pool without the pooler would hear at once."),
        None => finding(Soundness::Unknown, "two sessions at a time could not be had"),
    }
}

/// The machine's time, in milliseconds.
fn here() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn clock(store: &PostgresStore) -> Result<Finding, StoreError> {
    let before = here();
    let rows = store
        .answer_to("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        .await?;
    let (there, after): (i64, i64) = (column(only(&rows)?, 0)?, here());
    // Somewhere in between.
    let ahead = match there {
        there if there > after => there - after,
        there if there < before => there - before,
        _ => 0,
    };
    let found = format!("the server's clock is {ahead} ms ahead of this machine's");
    Ok(match ahead.abs() > SAME_CLOCK {
        false => Finding::new("clock", Soundness::Sound, found),
        true => Finding::new("clock", Soundness::Remarkable, found)
            .advise("Set both clocks by NTP: leases and retention go by the server's, and a jump of it ends them sooner or later."),
    })
}

async fn version_of_schema(store: &PostgresStore) -> Result<Finding, StoreError> {
    let migrations = store.names.of("migrations");
    let rows = store
        .answer_to(format!("SELECT coalesce(max(version), 0) FROM {migrations}"))
        .await?;
    let (found, known): (i64, i64) = (column(only(&rows)?, 0)?, schema::known());
    let finding = |verdict| Finding::new("schema", verdict, format!("version {found}; {known} is known here"));
    Ok(match found.cmp(&known) {
        std::cmp::Ordering::Equal => finding(Soundness::Sound),
        std::cmp::Ordering::Less => finding(Soundness::Broken).advise("Apply the migrations that are missing."),
        std::cmp::Ordering::Greater => {
            finding(Soundness::Remarkable).advise("Use the version of this tool that the service has.")
        }
    })
}

async fn recovery(store: &PostgresStore) -> Result<Finding, StoreError> {
    let rows = store.answer_to("SELECT pg_is_in_recovery()").await?;
    Ok(match column(only(&rows)?, 0)? {
        false => Finding::new("role of the server", Soundness::Sound, "it is the primary"),
        true => Finding::new("role of the server", Soundness::Broken, "it is a standby")
            .advise("Connect to the primary: nothing can be claimed here."),
    })
}

async fn replication(store: &PostgresStore, settings: &Settings) -> Result<Finding, StoreError> {
    let rows = store
        .answer_to(
            "SELECT count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')),
                    coalesce(max(extract(epoch FROM replay_lag)) * 1000, 0)::bigint,
                    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
             FROM pg_stat_replication",
        )
        .await?;
    let row = only(&rows)?;
    let (all, synchronous, lag): (i64, i64, i64) = (column(row, 0)?, column(row, 1)?, column(row, 2)?);
    // Others see that there are some, and nothing of them.
    let is_seen: bool = column(row, 3)?;
    let standbys = match all {
        1 => "1 standby".to_owned(),
        all => format!("{all} standbys"),
    };
    if all > 0 && !is_seen {
        let found =
            format!("{standbys}; this role may not see whether they are synchronous, and how far they are behind");
        return Ok(Finding::new("replication", Soundness::Unknown, found)
            .advise("Grant this role pg_read_all_stats, or call this as one that has it."));
    }
    let found = format!("{standbys}, {synchronous} of them synchronous, up to {lag} ms behind");
    let finding = |verdict| Finding::new("replication", verdict, found.as_str());
    let waits = !settings.text("synchronous_standby_names").is_empty();
    Ok(match (all, waits) {
        (0, false) => Finding::new("replication", Soundness::Sound, "there is no standby"),
        (0, true) => Finding::new("replication", Soundness::Remarkable, "no standby is seen, and commits wait for one")
            .advise("Look for the standbys in synchronous_standby_names: every claim waits until one is there."),
        (_, true) if settings.text("synchronous_commit") != "local" => finding(Soundness::Sound),
        _ => finding(Soundness::Remarkable).advise(
            "Name a standby in synchronous_standby_names: after a failover to one that is behind, what was acknowledged may be done again.",
        ),
    })
}

async fn rights(store: &PostgresStore) -> Result<Finding, StoreError> {
    let text = |name: &str| Value::Text(&store.names.of(name)).to_string();
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for table in ["records", "workflows", "steps"] {
        for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
            let checks = if right == "SELECT" { &mut reads } else { &mut writes };
            checks.push(format!(
                "CASE WHEN NOT has_table_privilege({}, '{right}') THEN '{right} on {table}' END",
                text(table)
            ));
        }
    }
    let all_writes = writes.len();
    for right in ["SELECT", "UPDATE"] {
        writes.push(format!(
            "CASE WHEN NOT has_sequence_privilege({}, '{right}') AND NOT has_sequence_privilege({}, 'USAGE')
                  THEN '{right} on tokens' END",
            text("tokens"),
            text("tokens")
        ));
    }
    let rows = store
        .answer_to(format!(
            "SELECT concat_ws(', ', {}), concat_ws(', ', {}), num_nonnulls({})::bigint",
            reads.join(", "),
            writes.join(", "),
            writes[..all_writes].join(", "),
        ))
        .await?;
    let row = only(&rows)?;
    let (reads, writes): (String, String) = (column(row, 0)?, column(row, 1)?);
    let lacks_all = column::<i64>(row, 2)? == i64::try_from(all_writes).unwrap_or(i64::MAX);
    if reads.is_empty() && lacks_all {
        let found = "this role may only read: whether that of the service may write is not seen by it";
        return Ok(Finding::new("rights", Soundness::Unknown, found).advise(
            "Call this once as the role of the service; this one cannot resolve, hold, erase, purge or migrate.",
        ));
    }
    let missing: Vec<_> = [reads, writes].into_iter().filter(|it| !it.is_empty()).collect();
    Ok(match missing.is_empty() {
        true => Finding::new(
            "rights",
            Soundness::Sound,
            "this role may read and change records and steps",
        ),
        false => Finding::new(
            "rights",
            Soundness::Remarkable,
            format!("this role lacks {}", missing.join(", ")),
        )
        .advise("Grant the role of the service what is missing; a role that only looks needs SELECT alone."),
    })
}

async fn autovacuum(store: &PostgresStore, settings: &Settings) -> Result<Finding, StoreError> {
    let tables = ["records", "workflows", "steps"].map(|table| Value::Text(&store.names.of(table)).to_string());
    let rows = store
        .answer_to(format!(
            "SELECT coalesce(sum(n_dead_tup), 0)::bigint, coalesce(sum(n_live_tup), 0)::bigint,
                    coalesce(bool_or(c.reloptions @> ARRAY['autovacuum_enabled=false']), false)
             FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
             WHERE c.oid IN ({}::regclass, {}::regclass, {}::regclass)",
            tables[0], tables[1], tables[2]
        ))
        .await?;
    let row = only(&rows)?;
    let (dead, live, is_off): (i64, i64, bool) = (column(row, 0)?, column(row, 1)?, column(row, 2)?);
    let found = format!("{dead} dead rows beside {live}");
    let finding = |verdict| Finding::new("autovacuum", verdict, found.as_str());
    Ok(
        if is_off || settings.is_off("autovacuum") || settings.is_off("track_counts") {
            finding(Soundness::Remarkable)
                .advise("Turn autovacuum on: our tables grow without end where nobody cleans them.")
        } else if dead > FEW_DEAD_ROWS.max(live / 4) {
            finding(Soundness::Remarkable)
            .advise("Look for a transaction that is open for long, or a slot of replication that nobody reads: dead rows stay for them.")
        } else {
            finding(Soundness::Sound)
        },
    )
}

async fn retention(store: &PostgresStore) -> Result<Finding, StoreError> {
    let records = store.names.of("records");
    let now = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let rows = store
        .answer_to(format!(
            "SELECT (SELECT count(*) FROM (SELECT FROM {records} WHERE expires_at <= (SELECT {now}) LIMIT 100000) late),
                    coalesce({now} - (SELECT min(expires_at) FROM {records} WHERE expires_at IS NOT NULL), 0)"
        ))
        .await?;
    let row = only(&rows)?;
    let (found, late): (i64, i64) = (column(row, 0)?, column(row, 1)?);
    let most = if found == 100_000 { "at least " } else { "" };
    let found = match found {
        1 => "1 record past its retention".to_owned(),
        found => format!("{most}{found} records past their retention"),
    };
    Ok(match late > PURGED_WITHIN {
        false => Finding::new("retention", Soundness::Sound, found),
        true => Finding::new(
            "retention",
            Soundness::Remarkable,
            format!("{found}, one of them for more than a day"),
        )
        .advise("Let a service purge (`purge_every`), or run `oneflight purge` from time to time."),
    })
}
