//! Migrations of PostgreSQL, without holding others up for long.
//!
//! A migration needs locks that it does not get while a transaction has read the tables, and whatever comes after it waits behind it. So
//! each lock is waited for a short time. Then nothing is changed, others have their turn, and it is tried again.

use std::pin::pin;
use std::time::Duration;

use oneflight::store::{StoreError, find};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use tokio::time::{sleep, timeout};

use crate::exit::{Code, Failure};
use crate::output::{counted, duration, note};
use crate::store::{Address, unreachable};

/// How often it is tried.
const TRIES: usize = 5;
/// How long others have their turn in between, at most: as long as they were held up.
const PAUSE: Duration = Duration::from_secs(5);
/// How often is looked for what it waits for.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// How long such a look may take.
const LOOKS_FOR: Duration = Duration::from_secs(1);

/// Those that the migration waits for, the longest transaction first. Of sessions of others, a user without the right to see them is
/// told their numbers alone.
const BLOCKERS: &str = "\
    SELECT DISTINCT b.pid, coalesce(b.usename::text, ''), coalesce(b.application_name, ''), coalesce(b.state, ''),
           coalesce(extract(epoch FROM clock_timestamp() - b.xact_start), 0)::bigint AS open,
           left(regexp_replace(coalesce(b.query, ''), '\\s+', ' ', 'g'), 100)
    FROM pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) AS by (pid) JOIN pg_stat_activity b ON b.pid = by.pid
    WHERE w.application_name = $1 ORDER BY open DESC";

/// Reads how long a lock is waited for.
pub(super) fn longest(text: &str) -> Result<Duration, String> {
    let longest = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match longest.as_millis() {
        0 => Err("a lock that is waited for no time is never had; say how long, as in 3s".to_owned()),
        1..=3_600_000 => Ok(longest),
        _ => Err("all requests wait as long as the migration does: say an hour at most".to_owned()),
    }
}

/// Applies what is missing.
pub(super) async fn upgrade(store: &Address, longest: Duration) -> Result<(), Failure> {
    let session = format!("oneflight migrate {}", std::process::id());
    let mut beside = connected(store).await;
    let mut held_by = Vec::new();
    let pause = longest.min(PAUSE);
    for tried in 1..=TRIES {
        let (ended, seen) = watched(store.upgrade_postgres(&session, longest), &mut beside, &session).await;
        match ended? {
            Ok(()) => return Ok(()),
            Err(error) if is_lock_timeout(&error) => {}
            Err(error) => return Err(unreachable(error)),
        }
        if !seen.is_empty() {
            held_by = seen;
        }
        if tried < TRIES {
            note(&format!(
                "oneflight: a lock was not had within {}, and nothing is changed so far.{}Tried again in {}",
                duration(longest),
                told(&held_by),
                duration(pause)
            ));
            sleep(pause).await;
        }
    }
    let what = format!(
        "a lock was not had within {}, {}, and nothing was changed.{}End what holds it (SELECT pg_terminate_backend(PID)), or try again when \
         little is going on. --lock-timeout says how long is waited; all requests wait meanwhile",
        duration(longest),
        counted(TRIES, "time"),
        told(&held_by)
    );
    Err(Failure::new(Code::Temporary, what))
}

/// `lock_not_available`.
fn is_lock_timeout(error: &StoreError) -> bool {
    match find::<sqlx::Error>(error) {
        Some(sqlx::Error::Database(error)) => error.code().as_deref() == Some("55P03"),
        _ => false,
    }
}

/// A connection to look by. Without one the migration is made all the same.
async fn connected(store: &Address) -> Option<PgConnection> {
    let options = store.reach().await.ok()?;
    timeout(LOOKS_FOR, PgConnection::connect_with(&options))
        .await
        .ok()?
        .ok()
}

/// Waits for the migration, and returns what it was seen to wait for last.
async fn watched<T>(
    migration: impl Future<Output = T>,
    beside: &mut Option<PgConnection>,
    session: &str,
) -> (T, Vec<String>) {
    let mut seen = Vec::new();
    let mut migration = pin!(migration);
    loop {
        tokio::select! {
            ended = &mut migration => return (ended, seen),
            now = look(beside, session) => if !now.is_empty() {
                seen = now;
            },
        }
    }
}

/// Looks for what the session waits for, after a pause.
async fn look(beside: &mut Option<PgConnection>, session: &str) -> Vec<String> {
    sleep(LOOKS_EVERY).await;
    let Some(connection) = beside else {
        return Vec::new();
    };
    match timeout(LOOKS_FOR, blockers(connection, session)).await {
        Ok(Ok(now)) => now,
        Ok(Err(_)) | Err(_) => {
            *beside = None;
            Vec::new()
        }
    }
}

async fn blockers(connection: &mut PgConnection, session: &str) -> sqlx::Result<Vec<String>> {
    let rows = sqlx::query(BLOCKERS).bind(session).fetch_all(connection).await?;
    rows.iter().map(blocker).collect()
}

fn blocker(row: &PgRow) -> sqlx::Result<String> {
    let (pid, user, program): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (state, open, query): (String, i64, String) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let who: Vec<_> = [user, program, state].into_iter().filter(|it| !it.is_empty()).collect();
    let who = match who.is_empty() {
        true => String::new(),
        false => format!(" ({})", who.join(", ")),
    };
    let open = duration(Duration::from_secs(open.unsigned_abs()));
    Ok(format!("process {pid}{who}, in a transaction for {open}: {query}"))
}

fn told(held_by: &[String]) -> String {
    match held_by {
        [] => " ".to_owned(),
        held_by => format!(" It is held by\n  {}\n", held_by.join("\n  ")),
    }
}
