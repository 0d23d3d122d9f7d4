//! A topic that is paused for long: what has gathered there is in nobody's way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay};
use oneflight_sqlite::SqliteStore;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waits)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn send(store: &SqliteStore, messages: impl IntoIterator<Item = Message>) {
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
    let _ = outbox.send_all(&mut tx, messages).await.unwrap();
    tx.commit().await.unwrap();
    outbox.wake();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_topic_is_not_held_up_by_a_hundred_thousand_paused_messages() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let outbox = Outbox::new(store.clone());
    send(&store, [Message::text("paused", "the first")]).await;
    let more = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
                INSERT INTO oneflight_messages
                    (position, state, shard, attempts, blocks, sent_at, deduplicated, topic, key, content_type, payload)
                SELECT n, 0, n % 64, 0, 0, sent_at, 0, topic, key || n, content_type, payload
                FROM n, oneflight_messages WHERE id = 1;
                UPDATE oneflight_outbox SET position = 100000";
    sqlx::raw_sql(more).execute(store.pool()).await.unwrap();
    assert!(outbox.pause("paused").await.unwrap());
    let (paused, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = |of: &Arc<AtomicUsize>| {
        let of = Arc::clone(of);
        move |_: Delivery| {
            of.fetch_add(1, SeqCst);
            async { Ok::<(), DeliveryError>(()) }
        }
    };
    let relay = Relay::builder(store.clone())
        .lease(Duration::from_secs(1))
        .target("paused", count(&paused))
        .target("other", count(&others))
        .build()
        .unwrap()
        .spawn();
    for round in 1..=2 {
        send(&store, (0..50).map(|number| Message::text("other", number.to_string()))).await;
        until("the others arrive", || others.load(SeqCst) == round * 50).await;
    }
    until("they have ended", || relay.health().delivered == 100).await;
    let health = relay.health();
    assert_eq!((health.paused, health.backlog), (vec!["paused".to_owned()], 0));
    let backlog = outbox.backlog().await.unwrap();
    let waits: Vec<_> = backlog
        .iter()
        .map(|it| (&*it.topic, it.waiting, it.is_paused))
        .collect();
    assert_eq!(waits, [("paused", 100_000, true)]);
    assert_eq!(paused.load(SeqCst), 0);
    // It goes on from where it is.
    assert!(outbox.resume("paused").await.unwrap());
    until("what was paused goes on", || paused.load(SeqCst) > 2000).await;
    relay.stop().await;
}
