//! What a Redis server does to records when something goes wrong with it, and what of that may not be noticed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oneflight::idempotency::{ErrorKind, Idempotency, Origin, Recovery};
use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use oneflight::record::{CodecId, HolderId, RecordedResult, State, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError, StoreFailure, Takeover};
use oneflight_redis::RedisStore;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::task::JoinSet;

use crate::proxy::{Cut, Proxy};
use crate::server::{LAST_TOKEN, Server, place, prefix, server};

const MINUTE: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn result() -> RecordedResult {
    RecordedResult::value(Verdict::Performed, CodecId::Json, b"1")
}

fn granted(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Granted(claim) => claim,
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &RedisStore, id: &RequestIdentity) -> Claim {
    granted(store.claim(ClaimRequest::new(id, MINUTE)).await.unwrap())
}

async fn set(connection: &mut MultiplexedConnection, name: &str, value: &str) {
    let set = cmd("CONFIG")
        .arg("SET")
        .arg(name)
        .arg(value)
        .exec_async(connection)
        .await;
    set.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgets_are_sent_again() {
    let server = Server::start(&[]);
    let idem = Idempotency::builder(server.store("shop:").await).build();
    let mut connection = server.connection().await;
    let flushes = Arc::new(AtomicBool::new(true));
    let flushing = tokio::spawn({
        let flushes = Arc::clone(&flushes);
        async move {
            let mut count = 0;
            while flushes.load(SeqCst) {
                cmd("SCRIPT").arg("FLUSH").exec_async(&mut connection).await.unwrap();
                count += 1;
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            count
        }
    });
    for n in 0..500 {
        let reply = idem.run(id(&format!("k{n}")), move |_| async move { n }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (n, Origin::Executed));
        let reply = idem.run(id(&format!("k{n}")), |_| async { -1 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (n, Origin::Replayed));
    }
    flushes.store(false, SeqCst);
    let count: u32 = flushing.await.unwrap();
    assert!(count > 50, "flushed {count} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_over_which_nobody_answers_is_given_up_for_another() {
    let proxy = Proxy::before(server().port()).await;
    let options = RedisStore::options().prefix(prefix());
    let store = options.patience(Duration::from_millis(300));
    let store = store
        .open(format!("redis://127.0.0.1:{}/", proxy.port()))
        .await
        .unwrap();
    let idem = Idempotency::builder(store).build();
    let run = |key: &str, value| idem.run(id(key), move |_| async move { value });
    assert_eq!(*run("warm", 0).await.unwrap(), 0);
    // The claim, and the completion.
    for (skipped, key) in [(0, "first"), (1, "second")] {
        proxy.cut_after(skipped, key, Cut::Swallowed);
        let begun = Instant::now();
        let reply = run(key, 1).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Executed), "{key}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{key}: {:?}",
            begun.elapsed()
        );
        let reply = run(key, 2).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Replayed), "{key}");
    }
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_not_waited_for_as_a_store_is_opened() {
    let proxy = Proxy::before(server().port()).await;
    proxy.cut("memory", Cut::Swallowed);
    let options = RedisStore::options().patience(Duration::from_millis(300));
    let opened = options.open(format!("redis://127.0.0.1:{}/", proxy.port()));
    let opened = tokio::time::timeout(Duration::from_secs(10), opened).await.unwrap();
    assert!(matches!(opened, Err(StoreError::Unavailable { .. })), "{opened:?}");
    assert_eq!(proxy.cuts(), 1);
}

/// A client that hands its commands to a task through a channel can lose one, and its answer, just as the connection breaks:
/// it is sent when the task has ended already, and nobody says so (tokio issue 7714). About one in eight hundred breaks here.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_command_that_goes_down_with_its_connection_is_not_waited_for() {
    let server = Server::start(&[]);
    let store = server.store_with(RedisStore::options().patience(MINUTE)).await;
    let mut killer = server.connection().await;
    let until = Instant::now() + Duration::from_secs(6);
    let mut asking = JoinSet::new();
    for n in 0..16 {
        let store = store.clone();
        asking.spawn(async move {
            let (id, mut longest) = (id(&format!("k{n}")), Duration::ZERO);
            while Instant::now() < until {
                let asked = Instant::now();
                // Most are told that the connection is lost.
                let _ = store.load(&id).await;
                longest = longest.max(asked.elapsed());
            }
            longest
        });
    }
    let mut kills = 0;
    while Instant::now() < until {
        // Often, but not so often that none comes back.
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal");
        kills += kill.query_async::<usize>(&mut killer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
    }
    let mut longest = Duration::ZERO;
    while let Some(one) = asking.join_next().await {
        longest = longest.max(one.unwrap());
    }
    assert!(longest < Duration::from_secs(5), "waited for {longest:?}");
    assert!(kills > 100, "only {kills} connections were killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_started_again_has_lost_nothing() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = server.store_with(RedisStore::options().patience(MINUTE)).await;
    let builder = Idempotency::builder(store.clone()).recovery(Recovery::Rerun);
    let idem = builder.lease(Duration::from_secs(2)).wait(MINUTE).build();
    let executed: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let acknowledged: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (idem, executed, acknowledged) = (idem.clone(), Arc::clone(&executed), Arc::clone(&acknowledged));
        let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
        callers.spawn(async move {
            while !stop.load(SeqCst) {
                let key = format!("k{}", next.fetch_add(1, SeqCst));
                let count = {
                    let (key, executed) = (key.clone(), Arc::clone(&executed));
                    move |_| async move {
                        let mut executed = executed.lock().unwrap();
                        let count = executed.entry(key).or_default();
                        *count += 1;
                        *count
                    }
                };
                if let Ok(reply) = idem.run(id(&key), count).await {
                    acknowledged.lock().unwrap().insert(key, *reply);
                }
            }
        });
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.start_again();
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, SeqCst);
    callers.join_all().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 100, "{} acknowledged", acknowledged.len());
    let mut reruns = 0;
    for (key, value) in &acknowledged {
        // What one call was told is what every call is told, and nothing ran after that.
        let reply = idem.run(id(key), |_| async { 0 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (*value, Origin::Replayed), "{key}");
        let count = executed.lock().unwrap()[key];
        assert_eq!(count, *value, "{key} was executed after it had been answered");
        reruns += count - 1;
    }
    assert_eq!(store.setbacks(), 0);
    println!(
        "{} acknowledged across 5 crashes, {reruns} of them executed again before",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_an_error_within_the_patience_and_one_that_is_back_is_used() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = server
        .store_with(RedisStore::options().patience(Duration::from_millis(700)))
        .await;
    let held = claim(&store, &id("held")).await;
    server.kill();
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = store.load(&id("held")).await;
        assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    server.start_again();
    let until = Instant::now() + Duration::from_secs(20);
    let record = loop {
        match store.load(&id("held")).await {
            Ok(record) => break record.unwrap(),
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    };
    assert_eq!(record.token, held.token());
    store.complete(held, result(), MINUTE).await.unwrap();
}

#[tokio::test]
async fn tokens_do_not_go_backwards_with_the_clock_of_the_server_nor_with_its_memory() {
    let server = Server::start(&[]);
    let mut connection = server.connection().await;
    let store = server.store("shop:").await;
    let id = id("k");
    let place = place(&store, "shop:", &id).await;

    // As if the clock had been set back by an hour since the last claim.
    let first = claim(&store, &id).await;
    let ahead = first.token().get() / 1024 + 3_600_000_000;
    cmd("ZADD")
        .arg(place.list())
        .arg(ahead)
        .arg(LAST_TOKEN)
        .exec_async(&mut connection)
        .await
        .unwrap();
    let token = first.token();
    store.release(first).await.unwrap();
    let second = claim(&store, &id).await;
    assert_eq!(second.token().get() / 1024, ahead + 1);
    assert!(second.token() > token);
    store.complete(second, result(), Duration::ZERO).await.unwrap();
    let third = claim(&store, &id).await;
    assert_eq!(third.token().get() / 1024, ahead + 2);
    assert_eq!(store.setbacks(), 0);

    // And now everything is lost, the counter as well. This process knows better than the server.
    cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    let fourth = claim(&store, &id).await;
    assert!(fourth.token() > third.token());
    assert_eq!(store.setbacks(), 1);
    // The holder of what was lost is outdated.
    let answer = store.complete(third, result(), MINUTE).await;
    assert!(matches!(answer, Err(StoreError::Outdated { .. })), "{answer:?}");
    // The server has been told, so another process goes on from there.
    store.release(fourth).await.unwrap();
    let other = server.store("shop:").await;
    assert_eq!(claim(&other, &id).await.token().get() / 1024, ahead + 4);
    assert_eq!(other.setbacks(), 0);

    // A process that has seen nothing is kept from going backwards by the clock, if that goes on.
    cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    let id = RequestIdentity::new(Scope::new("tenant-7"), "another").unwrap();
    let before = claim(&server.store("shop:").await, &id).await;
    cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    let after = claim(&server.store("shop:").await, &id).await;
    assert!(after.token() > before.token());
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_noticed_although_its_clock_goes_on() {
    let server = Server::start(&[]);
    let mut connection = server.connection().await;
    let store = server.store("shop:").await;
    let place = place(&store, "shop:", &id("k")).await;
    let before = claim(&store, &id("k")).await;
    assert_eq!(store.setbacks(), 0);
    // Another process draws tokens, which this one has not seen: nothing is forgotten.
    let other = server.store("shop:").await;
    other.release(before).await.unwrap();
    let before = claim(&other, &id("k")).await;
    other.release(before).await.unwrap();
    let before = claim(&store, &id("k")).await;
    assert_eq!((store.setbacks(), other.setbacks()), (0, 0));
    // An older file, and none at all.
    let older = before.token().get() / 1024 - 1;
    store.release(before).await.unwrap();
    cmd("ZADD")
        .arg(place.list())
        .arg(older)
        .arg(LAST_TOKEN)
        .exec_async(&mut connection)
        .await
        .unwrap();
    let after = claim(&store, &id("k")).await;
    assert_eq!(store.setbacks(), 1);
    store.release(after).await.unwrap();
    cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    drop(claim(&store, &id("k")).await);
    assert_eq!(store.setbacks(), 2);
    // It is told once.
    drop(store.claim(ClaimRequest::new(&id("k"), MINUTE)).await.unwrap());
    assert_eq!(store.setbacks(), 2);
}

#[tokio::test]
async fn a_holder_of_another_shard_is_outdated() {
    let store = server().store(&prefix()).await;
    let (one, two) = (claim(&store, &id("k1")).await, claim(&store, &id("k2")).await);
    assert_ne!(one.token().get() % 1024, two.token().get() % 1024);
    let answer = store.renew(&id("k1"), two.token(), MINUTE).await;
    assert!(
        matches!(answer, Err(StoreError::Outdated { token }) if token == two.token()),
        "{answer:?}"
    );
}

#[tokio::test]
async fn what_is_in_progress_never_expires_and_what_is_completed_does() {
    let server = Server::start(&[]);
    let mut connection = server.connection().await;
    let store = server.store("shop:").await;
    let id = id("k");
    let place = place(&store, "shop:", &id).await;
    let mut lives = async || -> i64 { cmd("PTTL").arg(&place.key).query_async(&mut connection).await.unwrap() };
    for retention in [Duration::from_millis(300), Duration::MAX] {
        let held = granted(store.claim(ClaimRequest::new(&id, Duration::ZERO)).await.unwrap());
        assert_eq!(lives().await, -1);
        store.renew(&id, held.token(), MINUTE).await.unwrap();
        assert_eq!(lives().await, -1);
        store.complete(held, result(), retention).await.unwrap();
        let left = lives().await;
        assert!(left > 0, "{left}");
        if retention == Duration::MAX {
            assert!(left > 4_000_000_000_000, "{left}");
        } else {
            tokio::time::sleep(retention).await;
            assert_eq!(lives().await, -2);
        }
    }
    // One that the server is late to delete is written over, and what takes its place does not expire.
    let mut connection = server.connection().await;
    let late = cmd("SETRANGE")
        .arg(&place.key)
        .arg(43)
        .arg("0000000000000001")
        .exec_async(&mut connection)
        .await;
    late.unwrap();
    let held = claim(&store, &id).await;
    assert_eq!(lives().await, -1);
    store.complete(held, result(), MINUTE).await.unwrap();
    // All that is left of an identity is a record that is kept, and the counter of its shard.
    let mut keys: Vec<String> = cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    keys.sort();
    assert_eq!(keys, [place.list(), place.key.clone()]);
    let listed: Vec<Vec<u8>> = cmd("ZRANGE")
        .arg(place.list())
        .arg(&[0, -1])
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(listed, [LAST_TOKEN]);
}

#[tokio::test]
async fn what_makes_no_sense_is_corrupt_and_left_alone() {
    let prefix = prefix();
    let store = server().store(&prefix).await;
    let mut connection = server().connection().await;
    const CUT: &str = "redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, ARGV[1]))";
    const ANOTHER_TYPE: &str = "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], 'token', '7')";
    // `layout.rs` has where everything is.
    let defects: [(&str, &[&str]); 17] = [
        ("another type", &["EVAL", ANOTHER_TYPE, "1", "{key}"]),
        ("another text", &["SET", "{key}", "x"]),
        ("no text", &["SET", "{key}", ""]),
        ("another state", &["SETRANGE", "{key}", "0", "d"]),
        ("a token in words", &["SETRANGE", "{key}", "1", "seven"]),
        (
            "a token that is too large",
            &["SETRANGE", "{key}", "1", "9007199254740992"],
        ),
        ("no attempt", &["SETRANGE", "{key}", "17", "          "]),
        (
            "an attempt that is too large",
            &["SETRANGE", "{key}", "17", "4294967296"],
        ),
        ("a lease in words", &["SETRANGE", "{key}", "27", "soon"]),
        ("a negative lease", &["SETRANGE", "{key}", "27", "-1"]),
        ("a head that is cut short", &["EVAL", CUT, "1", "{key}", "58"]),
        ("a short holder", &["EVAL", CUT, "1", "{key}", "70"]),
        ("a short fingerprint", &["EVAL", CUT, "1", "{key}", "100"]),
        ("a fingerprint that is denied", &["SETRANGE", "{key}", "75", "0"]),
        ("an id that is cut short", &["SETRANGE", "{key}", "108", "001"]),
        ("more than there should be", &["APPEND", "{key}", "x"]),
        ("completed without a result", &["SETRANGE", "{key}", "0", "c"]),
    ];
    for (number, (defect, command)) in defects.iter().enumerate() {
        let id = id(&format!("k{number}")).with_known_fingerprint(Fingerprint::of("payload"));
        let place = place(&store, &prefix, &id).await;
        let held = claim(&store, &id).await;
        let mut spoil = cmd(command[0]);
        for argument in &command[1..] {
            spoil.arg(if *argument == "{key}" { &place.key } else { *argument });
        }
        spoil.exec_async(&mut connection).await.unwrap();
        let dump = async |mut connection: MultiplexedConnection| -> Vec<u8> {
            cmd("DUMP").arg(&place.key).query_async(&mut connection).await.unwrap()
        };
        let before = dump(connection.clone()).await;
        let token = held.token();
        let request = ClaimRequest::new(&id, MINUTE).takeover(Takeover::Expired);
        let corrupt = [
            store.claim(request).await.map(drop),
            store.load(&id).await.map(drop),
            store.renew(&id, token, MINUTE).await,
            store.complete(held, result(), MINUTE).await,
            store.release(Claim::new(id.clone(), token, 1, None)).await,
        ];
        for answer in corrupt {
            assert!(
                matches!(answer, Err(StoreError::Corrupt { .. })),
                "{defect}: {answer:?}"
            );
        }
        assert_eq!(dump(connection.clone()).await, before, "{defect}");
    }

    let id = id("completed");
    let place = place(&store, &prefix, &id).await;
    let held = claim(&store, &id).await;
    store.complete(held, result(), MINUTE).await.unwrap();
    // There is neither a fingerprint nor an id.
    cmd("EVAL")
        .arg(&[CUT, "1", &place.key, "79"])
        .exec_async(&mut connection)
        .await
        .unwrap();
    let answer = store.claim(ClaimRequest::new(&id, MINUTE)).await;
    assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{answer:?}");
    // A counter from which there is no way on is not started anew, and what cannot have a token is not listed.
    cmd("DEL").arg(&place.key).exec_async(&mut connection).await.unwrap();
    for counter in ["9007199254740991", "8999999999999999", "inf"] {
        let mut spoil = cmd("ZADD");
        spoil.arg(place.list()).arg(counter).arg(LAST_TOKEN);
        spoil.exec_async(&mut connection).await.unwrap();
        let answer = store.claim(ClaimRequest::new(&id, MINUTE)).await;
        assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{answer:?}");
        let left: Vec<(Vec<u8>, String)> = cmd("ZRANGE")
            .arg(place.list())
            .arg(&["0", "-1", "WITHSCORES"])
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(left, [(LAST_TOKEN.to_vec(), counter.to_owned())]);
    }
    for command in [&["DEL"][..], &["HSET", "a", "b"]] {
        let mut spoil = cmd(command[0]);
        spoil.arg(place.list()).arg(&command[1..]);
        spoil.exec_async(&mut connection).await.unwrap();
    }
    let answer = store.claim(ClaimRequest::new(&id, MINUTE)).await;
    assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_server_without_memory_refuses_claims_keeps_leases_and_records_results() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let (held, given_back) = (claim(&store, &id("held")).await, claim(&store, &id("given back")).await);
    let mut connection = server.connection().await;
    set(&mut connection, "maxmemory", "1").await;
    let answer = store.claim(ClaimRequest::new(&id("new"), MINUTE)).await;
    let full = StoreFailure::Full;
    assert!(
        matches!(answer, Err(StoreError::Failed { failure, .. }) if failure == full),
        "{answer:?}"
    );
    assert!(store.load(&id("new")).await.unwrap().is_none());
    // A holder at work keeps its claim.
    store.renew(&id("held"), held.token(), MINUTE * 2).await.unwrap();
    let record = store.load(&id("held")).await.unwrap().unwrap();
    let State::InProgress { lease_expires } = record.state else {
        panic!("{record:?}")
    };
    assert!(lease_expires.since(record.observed) > MINUTE, "{record:?}");
    store.complete(held, result(), MINUTE).await.unwrap();
    assert_eq!(
        store.load(&id("held")).await.unwrap().unwrap().result(),
        Some(&result())
    );
    store.release(given_back).await.unwrap();
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_accepted() {
    let server = Server::start(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let refused = RedisStore::open(server.url()).await;
    assert!(matches!(refused, Err(StoreError::Unsupported { .. })), "{refused:?}");
    let store = RedisStore::options()
        .accept_eviction()
        .open(server.url())
        .await
        .unwrap();
    drop(claim(&store, &id("k")).await);
    let mut connection = server.connection().await;
    set(&mut connection, "maxmemory-policy", "noeviction").await;
    assert!(RedisStore::open(server.url()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_are_told() {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.port().to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
    let patient = primary
        .store_with(RedisStore::options().acknowledged_by(1, MINUTE))
        .await;
    let options = RedisStore::options().acknowledged_by(1, Duration::from_millis(300));
    let store = primary.store_with(options.clone()).await;
    let until = Instant::now() + MINUTE;
    let synced = async |mut connection: MultiplexedConnection| -> String {
        cmd("INFO")
            .arg("replication")
            .query_async(&mut connection)
            .await
            .unwrap()
    };
    while !synced(replica.connection().await)
        .await
        .contains("master_link_status:up")
    {
        assert!(Instant::now() < until, "it does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let held = claim(&patient, &id("held")).await;
    let unsettled = claim(&patient, &id("unsettled")).await;
    patient.complete(held, result(), MINUTE).await.unwrap();

    replica.signal("STOP");
    let told = |answer: &StoreError| {
        matches!(
            answer,
            StoreError::TooFewReplicas {
                acknowledged: 0,
                wanted: 1,
                ..
            }
        )
    };
    let answer = store.complete(unsettled, result(), MINUTE).await.unwrap_err();
    assert!(told(&answer), "{answer:?}");
    let holder = HolderId::random();
    let new = id("new");
    let request = ClaimRequest::new(&new, MINUTE).holder(holder);
    let answer = store.claim(request.clone()).await.unwrap_err();
    assert!(told(&answer), "{answer:?}");
    // Nor is it acknowledged by being asked for again, over the same connection or over another one.
    assert!(told(&store.claim(request.clone()).await.unwrap_err()));
    let again = primary.store_with(options).await;
    assert!(told(&again.claim(request.clone()).await.unwrap_err()));
    // Work is not begun under such a claim, and the claim is not left to its lease.
    let idem = Idempotency::builder(store.clone()).build();
    let ran = Arc::new(AtomicBool::new(false));
    let runs = Arc::clone(&ran);
    let error = idem
        .run(id("run"), move |_| async move { runs.store(true, SeqCst) })
        .await
        .unwrap_err();
    let ErrorKind::Store(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(told(source), "{source:?}");
    assert!(!ran.load(SeqCst));
    while store.load(&id("run")).await.unwrap().is_some() {
        assert!(Instant::now() < until, "it is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    replica.signal("CONT");
    assert_eq!(granted(patient.claim(request.clone()).await.unwrap()).attempt(), 1);
}

#[tokio::test]
async fn a_user_who_may_not_is_told_that() {
    let server = Server::start(&[]);
    let mut connection = server.connection().await;
    for (user, rights) in [("nothing", ["-@all", "+hello"]), ("reads", ["+@all", "-evalsha"])] {
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER")
            .arg(user)
            .arg("on")
            .arg(">secret")
            .arg("~*")
            .arg("&*")
            .arg(&rights);
        acl.query_async::<()>(&mut connection).await.unwrap();
    }
    for (user, password, failure) in [
        ("nothing", "secret", StoreFailure::Forbidden),
        ("reads", "secret", StoreFailure::Forbidden),
        ("reads", "wrong", StoreFailure::NotLoggedIn),
    ] {
        let url = format!("redis://{user}:{password}@127.0.0.1:{}/", server.port());
        let asked = async {
            let store = RedisStore::open(url).await?;
            store.claim(ClaimRequest::new(&id("k"), MINUTE)).await
        };
        let error = asked.await.unwrap_err();
        let StoreError::Failed { failure: found, .. } = &error else {
            panic!("{user}, {password}: {error:?}")
        };
        assert_eq!(*found, failure, "{user}, {password}: {error}");
        assert!(!error.to_string().contains("not available"), "{error}");
    }
}
