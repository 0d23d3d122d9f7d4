//! `purge_every` keeps all tables in order: of a service whose relays run elsewhere, too.

use std::io;
use std::time::Duration;

use oneflight::outbox::Message;
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use tokio::time::{Instant, sleep};

use crate::postgres::server;
use crate::support::{LONG, Texts, count, relay, store, until};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

fn purging(store: &PostgresStore) -> Idempotency<PostgresStore> {
    let often = Duration::from_secs(1);
    let builder = Idempotency::builder(store.clone()).retention(Duration::ZERO);
    builder.purge_every(often).build()
}

async fn rows(store: &PostgresStore, table: &str) -> i64 {
    count(store.pool(), &format!("SELECT count(*) FROM oneflight_{table}")).await
}

async fn empties(store: &PostgresStore, table: &str) {
    let begun = Instant::now();
    while rows(store, table).await > 0 {
        assert!(begun.elapsed() < LONG, "{table} was not purged");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_steps_go_after_their_retention() {
    let store = store(&server().schema().await).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_receipts_go_where_no_relay_keeps_the_outbox_in_order() {
    let store = store(&server().schema().await).await;
    let idem = Idempotency::builder(store.clone()).build();
    let sent = idem.run_in_tx(id("a"), |mut tx| async move {
        let _ = tx.send(Message::text("note", "one")).await?;
        Ok(())
    });
    let _ = sent.await.unwrap();
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    until("it arrives", || texts.lock().len() == 1).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    relay.stop().await;
    for (table, expected) in [("messages", 1), ("receipts", 1)] {
        assert!(rows(&store, table).await >= expected, "{table}");
    }
    let purges = purging(&store);
    let begun = Instant::now();
    while rows(&store, "messages").await > 0 || rows(&store, "receipts").await > 0 {
        assert!(begun.elapsed() < LONG, "the outbox was not kept in order");
        // The shortest time for which a partition is written to is ten seconds.
        let passed = "UPDATE oneflight_rotation SET since = since - 20000";
        sqlx::query(passed).execute(store.pool()).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    drop(purges);
}
