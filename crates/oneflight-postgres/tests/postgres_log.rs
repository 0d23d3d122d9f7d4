//! What a transaction writes into the application's own log, by `log` or by `tracing`. A program of its own, with one test: whether
//! there ever was a subscriber of `tracing`, and which lines it wants to hear, holds for all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneflight::idempotency::{Error, Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{RecordQuery, Upkeep};
use oneflight_postgres::PostgresStore;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[path = "../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../tests/common/proxy.rs"]
mod proxy;

use postgres::server;
use proxy::{Cut, Proxy};

/// Keeps all that it is told.
struct Lines(Mutex<String>);

static LINES: Lines = Lines(Mutex::new(String::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        *self.0.lock().unwrap() += &format!("{}\n", record.args());
    }

    fn flush(&self) {}
}

/// Keeps all that it is told, at every level.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<String>>);

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut told = self.0.lock().unwrap();
        *told += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

const SECRETS: [&str; 3] = ["tenant-7", "a-key-of-ours", "\"the-answer\""];

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), format!("a-key-of-ours-{key}")).unwrap()
}

async fn run(idem: &Idempotency<PostgresStore>, key: &str) -> Result<Origin, Error> {
    let reply = idem.run_in_tx(id(key), |mut tx| async move {
        let select = sqlx::query_scalar::<_, String>("SELECT 'the-answer' AS selected_by_the_work");
        Ok(select.fetch_one(&mut *tx).await?)
    });
    let reply = reply.await?;
    assert_eq!(reply.as_str(), "the-answer");
    Ok(reply.origin())
}

async fn select(idem: &Idempotency<PostgresStore>, select: &'static str) {
    sqlx::query(select).execute(idem.store().pool()).await.unwrap();
}

#[tokio::test]
async fn what_is_recorded_is_not_logged_by_the_application() {
    with_log().await;
    with_tracing().await;
    with_nothing_prepared().await;
}

async fn with_log() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    assert_eq!(run(&idem, "log").await.unwrap(), Origin::Executed);
    // And what `sqlx` says of others still gets there.
    select(&idem, "SELECT 1 AS selected_after_it").await;
    let lines = LINES.0.lock().unwrap();
    for statement in ["selected_by_the_work", "selected_after_it"] {
        assert!(lines.contains(statement), "{lines}");
    }
    for secret in SECRETS {
        assert!(!lines.contains(&hex(secret)), "{secret}: {lines}");
    }
}

async fn with_tracing() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // Longer than what `sqlx` calls slow.
    let options = PostgresStore::options().patience(Duration::from_millis(1_200));
    let store = options.from_pool(schema.pool_through(proxy.port(), 2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let told = Told::default();
    let _guard = tracing::subscriber::set_default(told.clone());
    // One whose end is waited for in vain, one that is given up by its caller, and one that is answered.
    proxy.cut("COMMIT", Cut::Swallowed);
    assert!(run(&idem, "slow").await.is_err());
    proxy.cut("COMMIT", Cut::Swallowed);
    tokio::select! {
        given_up = run(&idem, "given up") => panic!("{given_up:?}"),
        () = proxy.has_cut(2) => {}
    }
    assert_eq!(proxy.cuts(), 2);
    assert_eq!(run(&idem, "answered").await.unwrap(), Origin::Executed);
    // And what `sqlx` says of others still gets there, although it came to both lines with ours.
    select(&idem, "SELECT 1 AS selected_after_it").await;
    select(&idem, "SELECT pg_sleep(1.1) AS slept_after_it").await;
    let told = told.0.lock().unwrap();
    for statement in [
        "selected_by_the_work",
        "selected_after_it",
        "slept_after_it",
        "slow statement",
    ] {
        assert!(told.contains(statement), "{statement}: {told}");
    }
    for secret in SECRETS {
        assert!(!told.contains(&hex(secret)), "{secret}: {told}");
    }
}

/// Values stand in the text of every statement.
async fn with_nothing_prepared() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let options = PostgresStore::options().without_prepared_statements();
    let options = options.patience(Duration::from_millis(1_200));
    let store = options.from_pool(schema.pool_through(proxy.port(), 2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let told = Told::default();
    let _guard = tracing::subscriber::set_default(told.clone());
    for origin in [Origin::Executed, Origin::Replayed] {
        let reply = idem
            .run(id("elsewhere"), |_| async { "the-answer".to_owned() })
            .await
            .unwrap();
        assert_eq!(reply.origin(), origin);
    }
    assert_eq!(run(&idem, "answered").await.unwrap(), Origin::Executed);
    let mut query = RecordQuery::all(10);
    query.scope = Some("tenant-7".to_owned());
    assert_eq!(idem.store().records(query).await.unwrap().entries.len(), 2);
    proxy.cut("CALL", Cut::Swallowed);
    // Given up, and tried on another connection.
    let _ = idem.run(id("slow"), |_| async { "the-answer".to_owned() }).await;
    assert_eq!(proxy.cuts(), 1);
    select(&idem, "SELECT 1 AS selected_after_it").await;
    let told = told.0.lock().unwrap();
    for statement in ["selected_by_the_work", "selected_after_it"] {
        assert!(told.contains(statement), "{statement}: {told}");
    }
    for secret in SECRETS {
        assert!(!told.contains(&hex(secret)), "{secret}: {told}");
    }
}
