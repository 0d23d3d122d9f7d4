//! Nothing is skipped, however late its transaction commits, and order is that of the commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Outbox, Relay, Sent};
use oneflight::store::outbox::{MessageId, OutboxStore};
use parking_lot::Mutex;
use sqlx::Connection;
use tokio::time::sleep;

use crate::postgres::{Server, server};
use crate::support::{Texts, beat, count, relay, send, store, text, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_transaction_commits_late_is_delivered() {
    let store = store(&server().schema().await).await;
    let (texts, outbox) = (Texts::default(), Outbox::new(store.clone()));
    let relay = relay(&store, &texts);
    let mut late = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut late, text("late")).await.unwrap();
    let mut savepoint = late.begin().await.unwrap();
    let _ = outbox.send(&mut savepoint, text("late, in a savepoint")).await.unwrap();
    savepoint.commit().await.unwrap();
    for number in 0..20 {
        let _ = send(&store, text(&number.to_string())).await;
        sleep(Duration::from_millis(5)).await;
    }
    // One that took a long time stalls nothing.
    until("the others arrive", || texts.lock().len() == 20).await;
    late.commit().await.unwrap();
    outbox.wake();
    until("the late ones arrive", || texts.lock().len() == 22).await;
    let _ = send(&store, text("last")).await;
    until("the last one arrives", || texts.lock().len() == 23).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_given_out_and_that_no_snapshot_knows_is_not_skipped() {
    // Nobody else's transactions end here: a snapshot knows numbers up to the last one that ended.
    let own = Server::start("-c fsync=off -c full_page_writes=off");
    let store = store(&own.schema().await).await;
    let (texts, outbox) = (Texts::default(), Outbox::new(store.clone()));
    let keeps = Arc::clone(&texts);
    let keep = move |delivery: Delivery| {
        keeps
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone()).target("*", keep).build().unwrap().spawn();
    until("it has read", || {
        relay.health().shards == 64 && relay.health().polls > 0
    })
    .await;
    // Its second sign of life.
    sleep(Duration::from_secs(2)).await;
    let mut open = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut open, text("open")).await.unwrap();
    for _ in 0..4 {
        let polls = relay.health().polls;
        outbox.wake();
        until("it looks", || relay.health().polls > polls).await;
    }
    open.commit().await.unwrap();
    outbox.wake();
    until("it arrives", || texts.lock().len() == 1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_all_lengths_lose_nothing_and_keep_their_order() {
    const TASKS: usize = 8;
    const ROUNDS: usize = 40;
    let store = store(&server().schema().await).await;
    let committed: Arc<Mutex<HashMap<usize, Vec<String>>>> = Arc::default();
    let texts = Texts::default();
    let mut relays = vec![relay(&store, &texts), relay(&store, &texts)];
    let tasks = (0..TASKS).map(|task| {
        let (store, committed) = (store.clone(), Arc::clone(&committed));
        tokio::spawn(async move {
            let outbox = Outbox::new(store.clone());
            for round in 0..ROUNDS {
                let key = (task + round) % 3;
                let content = format!("{key} {task} {round}");
                let mut tx = store.pool().begin().await.unwrap();
                sqlx::query("SELECT pg_current_xact_id()")
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                sleep(Duration::from_millis(((task * 7 + round * 13) % 23) as u64)).await;
                let message = text(&content).ordering_key(format!("key-{key}"));
                let _ = outbox.send(&mut tx, message).await.unwrap();
                sleep(Duration::from_millis(((task * 5 + round * 3) % 11) as u64)).await;
                if (task + round) % 7 == 0 {
                    tx.rollback().await.unwrap();
                } else {
                    // Its key's lock is held until the commit, so this order is that of the commits.
                    committed.lock().entry(key).or_default().push(content);
                    tx.commit().await.unwrap();
                    outbox.wake();
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    sleep(Duration::from_millis(150)).await;
    // A relay that goes and one that comes, in the middle.
    relays.remove(0).stop().await;
    relays.push(relay(&store, &texts));
    for task in tasks {
        task.await.unwrap();
    }
    let all: usize = committed.lock().values().map(Vec::len).sum();
    until("all arrive", || texts.lock().len() >= all).await;
    for relay in relays {
        relay.stop().await;
    }
    let mut arrived: HashMap<usize, Vec<String>> = HashMap::new();
    for text in texts.lock().iter() {
        let key = text.split(' ').next().unwrap().parse().unwrap();
        arrived.entry(key).or_default().push(text.clone());
    }
    assert_eq!(arrived, *committed.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_races_over_a_rotation_is_sent_once() {
    let store = store(&server().schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut first = store.pool().begin().await.unwrap();
    let sent = outbox.send(&mut first, text("one").key("k")).await.unwrap();
    let _ = send(&store, text("another")).await;
    for _ in 0..2 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(
        count(store.pool(), "SELECT messages::bigint FROM oneflight_rotation").await,
        1
    );
    let second = {
        let store = store.clone();
        tokio::spawn(async move { send(&store, text("two").key("k")).await })
    };
    sleep(Duration::from_millis(100)).await;
    assert!(!second.is_finished(), "the second one did not wait for the first");
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), Sent::Duplicate(sent.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taking_sees_what_was_cancelled_while_it_waited_whatever_transactions_are_usually_like() {
    for usual in ["read committed", "repeatable read", "serializable"] {
        let mut schema = server().schema().await;
        schema.options = schema.options.options([("default_transaction_isolation", usual)]);
        let store = store(&schema).await;
        let id = send(&store, text("cancelled")).await.id().get();
        let relay = store.beat(beat(None, None, &[])).await.unwrap();
        let mut cancels = store
            .pool()
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
            .unwrap();
        let withdraw = sqlx::query_scalar::<_, bool>("SELECT oneflight_withdraw($1, NULL)").bind(id);
        assert!(withdraw.fetch_one(&mut *cancels).await.unwrap());
        let takes = {
            let (store, shards) = (store.clone(), relay.shards.clone());
            tokio::spawn(async move {
                store
                    .take("default", relay.token, &shards, &[(MessageId::new(id), id)])
                    .await
                    .unwrap()
            })
        };
        sleep(Duration::from_millis(200)).await;
        assert!(!takes.is_finished(), "it did not wait");
        cancels.commit().await.unwrap();
        assert_eq!(takes.await.unwrap().cancelled, [id], "{usual}");
    }
}
