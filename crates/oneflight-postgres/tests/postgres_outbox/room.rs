//! Room is given back by whole partitions, whatever stands in the way of it.

use std::sync::Arc;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, Sent};
use oneflight::store::outbox::OutboxStore;
use tokio::time::{Instant, sleep, timeout};

use crate::postgres::server;
use crate::support::{LONG, Texts, count, relay, room_is_free, send, store, text, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_emptied_as_a_whole_and_nothing_is_deleted() {
    let store = store(&server().schema().await).await;
    let texts = Texts::default();
    let first = relay(&store, &texts);
    for number in 0..50 {
        let _ = send(&store, text(&number.to_string())).await;
    }
    until("all arrive", || texts.lock().len() == 50).await;
    first.stop().await;
    let pool = store.pool();
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages").await, 50);
    for _ in 0..3 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages").await, 0);
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages_0").await, 0);
    assert_eq!(count(pool, "SELECT messages::bigint FROM oneflight_rotation").await, 1);
    let deleted = "SELECT sum(n_tup_del + n_tup_upd)::bigint FROM pg_stat_user_tables
                   WHERE schemaname = current_schema() AND relname ~ 'messages_|receipts_'";
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(count(pool, deleted).await, 0);
    let again = relay(&store, &texts);
    let _ = send(&store, text("later")).await;
    until("it arrives", || texts.lock().len() == 51).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_kept_for_what_has_not_ended_or_is_about_to_be_written() {
    let store = store(&server().schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut late = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut late, text("late")).await.unwrap();
    let _ = send(&store, text("waits")).await;
    for _ in 0..3 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(
        count(store.pool(), "SELECT messages::bigint FROM oneflight_rotation").await,
        1
    );
    assert_eq!(
        count(store.pool(), "SELECT count(*) FROM oneflight_messages_0").await,
        1
    );
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    until("it arrives", || texts.lock().len() == 1).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    // All that can be seen there has ended, and the lock is held.
    store.keep_house().await.unwrap();
    assert_eq!(
        count(store.pool(), "SELECT count(*) FROM oneflight_messages_0").await,
        1
    );
    late.commit().await.unwrap();
    store.keep_house().await.unwrap();
    outbox.wake();
    until("the late one arrives", || texts.lock().len() == 2).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    relay.stop().await;
    room_is_free(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_an_old_snapshot_delays_the_emptying_only() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("one")).await;
    let texts = Texts::default();
    let first = relay(&store, &texts);
    until("it arrives", || texts.lock().len() == 1).await;
    first.stop().await;
    let mut report = store
        .pool()
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    sqlx::query("SELECT count(*) FROM oneflight_messages")
        .execute(&mut *report)
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(timeout(LONG, store.keep_house()).await.unwrap().is_ok());
    }
    assert_eq!(count(store.pool(), "SELECT count(*) FROM oneflight_messages").await, 1);
    report.rollback().await.unwrap();
    room_is_free(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_emptied_while_clients_send_all_the_time() {
    let store = store(&server().schema().await).await;
    for number in 0..20 {
        let _ = send(&store, text(&number.to_string())).await;
    }
    let texts = Texts::default();
    let first = relay(&store, &texts);
    until("all arrive", || texts.lock().len() == 20).await;
    until("all are recorded", || first.health().backlog == 0).await;
    first.stop().await;
    // It is never the case that nobody sends.
    let clients: Vec<_> = (0..7)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let outbox = Outbox::new(store.clone());
                loop {
                    let mut tx = store.pool().begin().await.unwrap();
                    let _ = outbox.send(&mut tx, text("more").key(random(client))).await.unwrap();
                    sleep(Duration::from_millis(15)).await;
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    let begun = Instant::now();
    while count(
        store.pool(),
        "SELECT count(*) FROM oneflight_messages_0 WHERE sent_at > 0",
    )
    .await
        > 0
    {
        store.keep_house().await.unwrap();
        assert!(begun.elapsed() < LONG, "the partition was never emptied");
        // From when it is not written to any more, nothing of it is left but what clients have sent before.
        let rest = relay(&store, &texts);
        sleep(Duration::from_millis(200)).await;
        rest.stop().await;
    }
    for client in clients {
        client.abort();
    }
}

fn random(client: usize) -> String {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    format!("{client} {}", COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_delivers_keeps_no_room_from_being_given_back() {
    let store = store(&server().schema().await).await;
    let pool = store.pool();
    let left = Message::text("nobody's", "left").ordering_key("k").key("left");
    let sent = send(&store, left.clone()).await;
    let texts = Texts::default();
    let keeps = Arc::clone(&texts);
    let keep = move |delivery: Delivery| {
        keeps
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone())
        .target("note", keep)
        .build()
        .unwrap()
        .spawn();
    let turn = async || {
        let arrived = texts.lock().len();
        let _ = send(&store, text("more")).await;
        until("it arrives", || texts.lock().len() > arrived).await;
        until("it is recorded", || relay.health().backlog == 0).await;
        let passed = "UPDATE oneflight_rotation SET since = since - 20000";
        sqlx::query(passed).execute(pool).await.unwrap();
        store.keep_house().await.unwrap();
    };
    for _ in 0..15 {
        turn().await;
    }
    let receipts = count(pool, "SELECT count(*) FROM oneflight_receipts").await;
    assert!(receipts < 24, "{receipts} receipts were kept for one message");
    let messages = count(pool, "SELECT count(*) FROM oneflight_messages").await;
    assert!(messages < 12, "{messages} messages were kept");
    relay.stop().await;
    assert_eq!(send(&store, left).await, Sent::Duplicate(sent.id()));
    let others = Texts::default();
    let keeps = Arc::clone(&others);
    let keep = move |delivery: Delivery| {
        keeps.lock().push(format!("{} {}", delivery.id(), delivery.attempt()));
        async { Ok::<(), DeliveryError>(()) }
    };
    let other = Relay::builder(store.clone())
        .target("nobody's", keep)
        .build()
        .unwrap()
        .spawn();
    until("it arrives", || !others.lock().is_empty()).await;
    until("it is recorded", || other.health().backlog == 0).await;
    other.stop().await;
    assert_eq!(*others.lock(), [format!("{} 1", sent.id())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_delays_no_rotation() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("one")).await;
    let ahead = "UPDATE oneflight_rotation SET since = (extract(epoch FROM now()) * 1000)::bigint + 3600000";
    sqlx::query(ahead).execute(store.pool()).await.unwrap();
    store.keep_house().await.unwrap();
    let current = "SELECT messages::bigint FROM oneflight_rotation";
    assert_eq!(count(store.pool(), current).await, 1);
}
