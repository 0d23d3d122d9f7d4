//! Waiting across processes on Redis: by notification over one connection, with polling as the fallback.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use oneflight::idempotency::{Idempotency, Origin, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Store, Watch};
use oneflight_redis::RedisStore;
use redis::cmd;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::server::{Server, cluster, prefix, server};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// How long after the end of a holder in one process a waiter in another one knows.
async fn woken_after(one: &RedisStore, two: &RedisStore, key: &str, panics: bool) -> Duration {
    let build = |store: &RedisStore| {
        let builder = Idempotency::builder(store.clone())
            .recovery(Recovery::Rerun)
            .settle(Duration::ZERO);
        builder
            .wait(Duration::from_secs(20))
            .lease(Duration::from_secs(30))
            .build()
    };
    let (holder, waiter) = (build(one), build(two));
    let (enters, entered) = oneshot::channel();
    let leave = Arc::new(Notify::new());
    let holding = tokio::spawn({
        let (id, left) = (id(key), Arc::clone(&leave));
        async move {
            let work = holder.run(id, move |_| async move {
                enters.send(()).unwrap();
                left.notified().await;
                assert!(!panics, "on purpose");
                1
            });
            work.await.map(drop)
        }
    });
    entered.await.unwrap();
    let waiting = tokio::spawn({
        let id = id(key);
        async move {
            let reply = waiter.run(id, |_| async { 2 }).await.unwrap();
            (*reply, reply.origin(), Instant::now())
        }
    });
    // Long enough that it is subscribed and the pauses between its questions are long.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let ended = Instant::now();
    leave.notify_one();
    let (value, source, woken) = waiting.await.unwrap();
    let _ = holding.await.unwrap();
    match panics {
        false => assert_eq!((value, source), (1, Origin::Replayed)),
        true => assert_eq!((value, source), (2, Origin::Executed)),
    }
    woken - ended
}

async fn quickly(one: &RedisStore, two: &RedisStore) {
    for panics in [false, true] {
        let mut took = Vec::new();
        for round in 0..5 {
            took.push(woken_after(one, two, &format!("{panics}-{round}"), panics).await);
        }
        took.sort();
        println!("panics: {panics}, {took:?}");
        // Without a notification, the next question would come 350 ms later on the average. The machine may be busy; so the
        // median counts.
        assert!(took[2] < Duration::from_millis(100), "panics: {panics}, {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_in_another_process_is_woken_by_notification() {
    let prefix = prefix();
    quickly(&server().store(&prefix).await, &server().store(&prefix).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_at_another_node_of_a_cluster_is_woken_by_notification() {
    let servers = cluster(3).await;
    let open = async |seed: &Server| {
        let options = RedisStore::options();
        options.open_cluster([seed.url()]).await.unwrap()
    };
    quickly(&open(&servers[0]).await, &open(&servers[1]).await).await;
}

/// A subscription, once the store hears.
async fn watch(store: &RedisStore, id: &RequestIdentity) -> Watch {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let watch = store.watch(id).await;
        if !watch.is_none() {
            return watch;
        }
        assert!(Instant::now() < until, "it does not hear");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many connections listen, and to how many channels.
async fn listening(server: &Server) -> (usize, usize) {
    let mut connection = server.connection().await;
    let clients: String = cmd("CLIENT")
        .arg(&["LIST", "TYPE", "pubsub"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let channels: Vec<String> = cmd("PUBSUB")
        .arg("CHANNELS")
        .query_async(&mut connection)
        .await
        .unwrap();
    (clients.lines().count(), channels.len())
}

/// Waits for what comes about a moment later.
async fn becomes(server: &Server, expected: (usize, usize)) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let is = listening(server).await;
        if is == expected {
            return;
        }
        assert!(Instant::now() < until, "{is:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_wait_one_connection_listens_and_only_to_what_is_waited_for() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    assert_eq!(listening(&server).await, (0, 0));
    drop(watch(&store, &id("k0")).await);
    let mut tasks = JoinSet::new();
    for n in 0..500 {
        let store = store.clone();
        tasks.spawn(async move { store.watch(&id(&format!("k{}", n % 100))).await });
    }
    let mut watches = tasks.join_all().await;
    assert!(watches.iter().all(|watch| !watch.is_none()));
    assert_eq!(listening(&server).await, (1, 100));
    // Some of a channel leave, and it is still heard; the last one does, and it is not.
    watches.truncate(450);
    watches.push(watch(&store, &id("another")).await);
    assert_eq!(listening(&server).await, (1, 101));
    drop(watches);
    becomes(&server, (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_the_connection_is_lost_and_the_next_one_hears_again() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut first = watch(&store, &id("k")).await;
    let mut connection = server.connection().await;
    let killed: usize = cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(killed, 1);
    tokio::time::timeout(Duration::from_secs(5), first.changed())
        .await
        .unwrap();
    assert!(first.is_none());
    let second = watch(&store, &id("k")).await;
    // The old one leaves, of an earlier connection, and takes nothing with it.
    drop(first);
    drop(watch(&store, &id("other")).await);
    becomes(&server, (1, 1)).await;
    drop(second);
    // The store and all its watches are gone, so nothing listens.
    drop(store);
    becomes(&server, (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_heard_who_waits_polls() {
    let prefix = prefix();
    let over = async || {
        let options = RedisStore::options().prefix(&prefix);
        options.from_connection(server().connection().await).await.unwrap()
    };
    let (one, two) = (over().await, over().await);
    assert!(one.watch(&id("k")).await.is_none());
    let took = woken_after(&one, &two, "polled", false).await;
    println!("polled: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
