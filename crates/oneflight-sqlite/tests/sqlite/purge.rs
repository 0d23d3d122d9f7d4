//! `purge_every` keeps all tables in order: of a service whose relays run elsewhere, too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Relay};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(20);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

async fn open() -> (SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    (store, folder)
}

fn purging(store: &SqliteStore) -> Idempotency<SqliteStore> {
    let often = Duration::from_secs(1);
    let builder = Idempotency::builder(store.clone()).retention(Duration::ZERO);
    builder.purge_every(often).build()
}

async fn rows(store: &SqliteStore, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM oneflight_{table}");
    let count = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(store.pool());
    count.await.unwrap()
}

async fn empties(store: &SqliteStore, table: &str) {
    let begun = Instant::now();
    while rows(store, table).await > 0 {
        assert!(begun.elapsed() < LONG, "{table} was not purged");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn records_and_steps_go_after_their_retention() {
    let (store, _folder) = open().await;
    // Nothing is purged by the service that writes them.
    let idem = Idempotency::builder(store.clone()).retention(Duration::ZERO).build();
    let _ = idem.run(id("a"), |_| async { 1 }).await.unwrap();
    let run = idem.run_steps(id("b"), &7, |steps| async move {
        steps.run("charge", |_| async { Ok::<_, io::Error>(1) }).await
    });
    let _ = run.await.unwrap();
    for (table, expected) in [("records", 2), ("workflows", 1), ("steps", 1)] {
        assert_eq!(rows(&store, table).await, expected, "{table}");
    }
    let purges = purging(&store);
    for table in ["records", "workflows", "steps"] {
        empties(&store, table).await;
    }
    drop(purges);
}

/// What became of a message is written in its own row, so there are no receipts besides.
#[tokio::test]
async fn messages_go_with_their_receipts_an_hour_after_they_ended() {
    let (store, _folder) = open().await;
    let idem = Idempotency::builder(store.clone()).build();
    let sent = idem.run_in_tx(id("a"), |mut tx| async move {
        let _ = tx.send(Message::text("note", "one")).await?;
        Ok(())
    });
    let _ = sent.await.unwrap();
    let takes = |_: Delivery| async { Ok::<(), DeliveryError>(()) };
    let relay = Relay::builder(store.clone())
        .target("*", takes)
        .build()
        .unwrap()
        .spawn();
    let begun = Instant::now();
    while relay.health().backlog > 0 || relay.health().delivered == 0 {
        assert!(begun.elapsed() < LONG, "it was not delivered");
        sleep(Duration::from_millis(5)).await;
    }
    relay.stop().await;
    let ago = async |minutes: i64| {
        let passed = "UPDATE oneflight_messages SET ended_at = ended_at - ? * 60000";
        let passed = sqlx::query(passed).bind(minutes).execute(store.pool()).await;
        assert_eq!(passed.unwrap().rows_affected(), 1);
    };
    ago(55).await;
    let purges = purging(&store);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        rows(&store, "messages").await,
        1,
        "its key is to be remembered for an hour"
    );
    ago(10).await;
    empties(&store, "messages").await;
    drop(purges);
}
