//! What tasks ask at the same time goes out together, and each is answered for itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures::future::join_all;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, StoreFailure};
use oneflight_redis::RedisStore;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::runtime::Handle;

use crate::server::{Server, cluster, prefix, server};

pub const MINUTE: Duration = Duration::from_secs(60);

pub fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

pub fn result() -> RecordedResult {
    RecordedResult::value(Verdict::Performed, CodecId::Json, b"1")
}

pub fn granted(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Granted(claim) => claim,
        other @ ClaimOutcome::Denied(_) => panic!("{other:?}"),
    }
}

/// How many scripts a server has run, of those that it knew.
pub async fn scripts(connection: &mut MultiplexedConnection) -> u64 {
    let info: String = cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
    let field = |line: &str, name: &str| -> Option<u64> {
        line.split(',').find_map(|field| field.strip_prefix(name)?.parse().ok())
    };
    line.map_or(0, |line| {
        field(line, "calls=").unwrap() - field(line, "failed_calls=").unwrap_or(0)
    })
}

/// All at the same time, from one task: it runs on the only worker, so the task that gathers runs after it.
pub async fn at_once<T: Send + 'static>(asked: impl IntoIterator<Item: Future<Output = T> + Send + 'static>) -> Vec<T> {
    let asked: Vec<_> = asked.into_iter().collect();
    tokio::spawn(async move { join_all(asked).await }).await.unwrap()
}

/// Claims, at the same time.
pub async fn claim_all(store: &RedisStore, ids: &[RequestIdentity]) -> Vec<Result<ClaimOutcome, StoreError>> {
    let asked = ids.iter().cloned().map(|id| {
        let store = store.clone();
        async move { store.claim(ClaimRequest::new(&id, MINUTE)).await }
    });
    at_once(asked.collect::<Vec<_>>()).await
}

/// Records results, at the same time.
pub async fn complete_all(store: &RedisStore, claims: impl IntoIterator<Item = Claim>) -> Vec<Result<(), StoreError>> {
    let asked = claims.into_iter().map(|claim| {
        let store = store.clone();
        async move { store.complete(claim, result(), MINUTE).await }
    });
    at_once(asked.collect::<Vec<_>>()).await
}

/// A claim and a completion, so that the server knows their scripts.
pub async fn warm(store: &RedisStore) {
    let claim = granted(store.claim(ClaimRequest::new(&id("warm"), MINUTE)).await.unwrap());
    store.complete(claim, result(), MINUTE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_asked_at_the_same_time_goes_out_in_two_messages() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    warm(&store).await;
    let before = scripts(&mut connection).await;
    let ids: Vec<_> = (0..60).map(|number| id(&format!("k{number}"))).collect();
    // The first goes out at once, and the others while it is under way.
    let claims = claim_all(&store, &ids).await;
    assert_eq!(scripts(&mut connection).await - before, 2);
    let claims: Vec<_> = claims.into_iter().map(|claim| granted(claim.unwrap())).collect();
    for (claim, id) in claims.iter().zip(&ids) {
        let record = store.load(id).await.unwrap().unwrap();
        assert_eq!((claim.id(), claim.token()), (id, record.token));
    }
    let before = scripts(&mut connection).await;
    let completed = complete_all(&store, claims).await;
    assert_eq!(scripts(&mut connection).await - before, 2);
    assert!(completed.iter().all(Result::is_ok), "{completed:?}");
    for id in &ids {
        assert_eq!(store.load(id).await.unwrap().unwrap().result(), Some(&result()));
    }
}

/// The callers of one message are answered at the same time, and go on at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_follows_a_message_of_several_goes_out_in_one() {
    const ROUNDS: u64 = 20;
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    warm(&store).await;
    let before = scripts(&mut connection).await;
    for round in 0..ROUNDS {
        let each: Vec<_> = (0..20)
            .map(|number| (store.clone(), id(&format!("k{round}-{number}"))))
            .collect();
        let asking = tokio::spawn(async move {
            let claims = each
                .iter()
                .map(|(store, id)| store.claim(ClaimRequest::new(id, MINUTE)));
            let claims = join_all(claims).await.into_iter().map(|claim| granted(claim.unwrap()));
            let results = claims
                .zip(&each)
                .map(|(claim, (store, _))| store.complete(claim, result(), MINUTE));
            join_all(results).await
        });
        let completed = asking.await.unwrap();
        assert!(completed.iter().all(Result::is_ok), "{completed:?}");
    }
    // The first claim, the other ones, and all results: three a round. One more now and then, where the task has its turn before
    // the callers have: each 61st time, the runtime wakes at once what has given way.
    let sent = scripts(&mut connection).await - before;
    assert!(sent < 3 * ROUNDS + ROUNDS / 2, "{sent} scripts");
    // After one that was sent alone, the first goes out at once again.
    let claims = claim_all(&store, &[id("one")]).await;
    let before = scripts(&mut connection).await;
    let (claims, ids) = (
        claims.into_iter().map(|claim| granted(claim.unwrap())),
        [id("two"), id("three")],
    );
    complete_all(&store, claims).await;
    claim_all(&store, &ids).await;
    assert_eq!(scripts(&mut connection).await - before, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lone_step_is_sent_by_its_caller_once_those_of_a_message_have_gone_on() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    warm(&store).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let ids: Vec<_> = (0..20).map(|number| id(&format!("k{number}"))).collect();
    for claim in claim_all(&store, &ids).await {
        drop(granted(claim.unwrap()));
    }
    while tasks() > before {
        tokio::task::yield_now().await;
    }
    // On the only worker, so a task that was begun is still there.
    let asking = tokio::spawn(async move {
        let (before, id) = (tasks(), id("alone"));
        let mut asked = Box::pin(store.claim(ClaimRequest::new(&id, MINUTE)));
        assert!(futures::poll!(&mut asked).is_pending());
        assert_eq!(tasks(), before);
        drop(granted(asked.await.unwrap()));
    });
    asking.await.unwrap();
}

/// Each turn of the tasks that can run brings three more.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_waits_for_those_that_come_meanwhile() {
    const CALLERS: usize = 15;
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    warm(&store).await;
    // A machine that has no time for it is not waited for.
    let mut least = u64::MAX;
    for round in 0..20 {
        let before = scripts(&mut connection).await;
        let asked = (0..CALLERS).map(|number| {
            let (store, id) = (store.clone(), id(&format!("k{round}-{number}")));
            async move {
                for _ in 0..number / 3 {
                    tokio::task::yield_now().await;
                }
                store.claim(ClaimRequest::new(&id, MINUTE)).await
            }
        });
        let asked: Vec<_> = asked.collect();
        let asking = tokio::spawn(async move {
            let asking: Vec<_> = asked.into_iter().map(tokio::spawn).collect();
            join_all(asking).await
        });
        for claim in asking.await.unwrap() {
            drop(granted(claim.unwrap().unwrap()));
        }
        least = least.min(scripts(&mut connection).await - before);
    }
    assert!(least <= 2, "{least} scripts");
}

/// The server does nothing else while it runs a script.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_results_are_not_one_script() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    warm(&store).await;
    for (kibibytes, least) in [(1, 2), (20, 8), (100, 20)] {
        let ids: Vec<_> = (0..20).map(|number| id(&format!("k{kibibytes}-{number}"))).collect();
        let claims = claim_all(&store, &ids).await;
        let before = scripts(&mut connection).await;
        let large = RecordedResult::value(Verdict::Performed, CodecId::Json, &vec![b'1'; kibibytes << 10]);
        let asked = claims.into_iter().map(|claim| {
            let (store, claim, large) = (store.clone(), granted(claim.unwrap()), large.clone());
            async move { store.complete(claim, large, MINUTE).await }
        });
        let completed = at_once(asked.collect::<Vec<_>>()).await;
        assert!(completed.iter().all(Result::is_ok), "{completed:?}");
        assert_eq!(scripts(&mut connection).await - before, least, "{kibibytes} KiB");
        for id in &ids {
            assert_eq!(store.load(id).await.unwrap().unwrap().result(), Some(&large));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_of_many_steps_is_answered_for_itself() {
    let prefix = prefix();
    let store = server().store(&prefix).await;
    let mut connection = server().connection().await;
    let payload = |key: &str, payload: &str| id(key).with_fingerprint(payload);
    let ask = |id: &RequestIdentity| store.claim(ClaimRequest::new(id, MINUTE));
    let done = granted(ask(&payload("done", "one")).await.unwrap());
    let token = done.token();
    store.complete(done, result(), MINUTE).await.unwrap();
    let held = granted(ask(&payload("held", "one")).await.unwrap());
    let spoiled = crate::server::place(&store, &prefix, &id("spoiled")).await;
    let set: redis::RedisResult<()> = cmd("SET").arg(&spoiled.key).arg("x").query_async(&mut connection).await;
    set.unwrap();

    let ids = [
        payload("first", "one"),
        payload("done", "one"),
        payload("new", "one"),
        payload("held", "one"),
        payload("done", "two"),
        payload("held", "two"),
        id("spoiled"),
        payload("twice", "one"),
        payload("twice", "one"),
    ];
    let mut answers = claim_all(&store, &ids).await.into_iter();
    let mut next = || answers.next().unwrap();
    let first = granted(next().unwrap());
    assert!(matches!(next(), Ok(ClaimOutcome::Denied(Denied::Completed(record))) if record.token == token));
    let new = granted(next().unwrap());
    assert!(matches!(next(), Ok(ClaimOutcome::Denied(Denied::InProgress { .. }))));
    assert!(matches!(next(), Ok(ClaimOutcome::Denied(Denied::Conflict))));
    assert!(matches!(next(), Ok(ClaimOutcome::Denied(Denied::Conflict))));
    assert!(matches!(next(), Err(StoreError::Corrupt { .. })));
    let twice = granted(next().unwrap());
    assert!(matches!(next(), Ok(ClaimOutcome::Denied(Denied::InProgress { .. }))));
    assert_eq!(
        (first.id(), new.id(), twice.id()),
        (&id("first"), &id("new"), &id("twice"))
    );

    // One is outdated, and one is of another shard; the others are recorded.
    store
        .release(Claim::new(id("new"), new.token(), 1, None))
        .await
        .unwrap();
    let strange = Claim::new(id("held"), first.token(), 1, None);
    let ended = complete_all(&store, [first, held, new, strange, twice]).await;
    let is_recorded: Vec<_> = ended.iter().map(Result::is_ok).collect();
    assert_eq!(is_recorded, [true, true, false, false, true], "{ended:?}");
    for outdated in [&ended[2], &ended[3]] {
        assert!(matches!(outdated, Err(StoreError::Outdated { .. })), "{outdated:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_without_memory_refuses_each_of_many_claims_and_records_each_result() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    warm(&store).await;
    let ids: Vec<_> = (0..20).map(|number| id(&format!("k{number}"))).collect();
    let claims = claim_all(&store, &ids).await;
    let mut connection = server.connection().await;
    let set = cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .exec_async(&mut connection)
        .await;
    set.unwrap();
    let new: Vec<_> = (0..20).map(|number| id(&format!("new-{number}"))).collect();
    for refused in claim_all(&store, &new).await {
        let full = StoreFailure::Full;
        assert!(
            matches!(refused, Err(StoreError::Failed { failure, .. }) if failure == full),
            "{refused:?}"
        );
    }
    for id in &new {
        assert!(store.load(id).await.unwrap().is_none());
    }
    let claims = claims.into_iter().map(|claim| granted(claim.unwrap()));
    let completed = complete_all(&store, claims).await;
    assert!(completed.iter().all(Result::is_ok), "{completed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_many_steps_that_the_server_forgets_are_sent_again() {
    let server = Server::start(&[]);
    let idem = Idempotency::builder(server.store("shop:").await).build();
    let mut connection = server.connection().await;
    let flushing = async {
        loop {
            cmd("SCRIPT").arg("FLUSH").exec_async(&mut connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let running = join_all((0..16).map(async |client| {
        for number in 0..50 {
            let key = || id(&format!("k{client}-{number}"));
            let reply = idem.run(key(), move |_| async move { number }).await.unwrap();
            assert_eq!((*reply, reply.origin()), (number, Origin::Executed));
            let reply = idem.run(key(), |_| async { -1 }).await.unwrap();
            assert_eq!((*reply, reply.origin()), (number, Origin::Replayed));
        }
    }));
    tokio::select! {
        _ = running => {}
        () = flushing => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_not_polled_or_is_dropped_holds_nobody_up() {
    let store = server().store(&prefix()).await;
    let ask = |key: String| {
        let store = store.clone();
        async move { store.claim(ClaimRequest::new(&id(&key), MINUTE)).await }
    };
    for round in 0..20 {
        // The first is under way when the others come, and the second would be the one to gather.
        let mut kept: Vec<_> = ["first", "second", "third"]
            .map(|key| Box::pin(ask(format!("{key}-{round}"))))
            .into();
        for asked in &mut kept {
            // Its answer may be there already, where this thread had to wait.
            let _ = futures::poll!(asked);
        }
        drop(kept.remove(round % 3));
        let others = (0..5).map(|number| ask(format!("{round}-{number}")));
        let answers = tokio::time::timeout(Duration::from_secs(10), join_all(others))
            .await
            .unwrap();
        answers.into_iter().for_each(|claim| drop(granted(claim.unwrap())));
        drop(kept);
    }
}

#[test]
fn a_step_goes_on_where_the_runtime_of_the_one_before_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (stays, ends) = (runtime(), runtime());
    let store = stays.block_on(server().store(&prefix()));
    let claim = |key: &'static str| {
        let store = store.clone();
        async move { store.claim(ClaimRequest::new(&id(key), MINUTE)).await }
    };
    let asked: Vec<_> = ["one", "two", "three"].map(|key| ends.spawn(claim(key))).into();
    ends.shutdown_background();
    for asked in asked {
        // Each has its answer, or none is waited for any more.
        let _ = stays.block_on(asked);
    }
    // What they asked may have been granted all the same.
    for key in ["four", "five"] {
        drop(granted(stays.block_on(claim(key)).unwrap()));
    }
    let both = stays.block_on(join_all(["six", "seven"].map(claim)));
    both.into_iter().for_each(|claim| drop(granted(claim.unwrap())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_only_server_of_a_cluster_may_be_asked_by_itself() {
    let servers = cluster(1).await;
    let ids: Vec<_> = (0..20).map(|number| id(&format!("k{number}"))).collect();
    for renews_first in [false, true] {
        let store = servers[0].store(&prefix()).await;
        let mut claims = Vec::new();
        if renews_first {
            for id in &ids {
                claims.push(granted(store.claim(ClaimRequest::new(id, MINUTE)).await.unwrap()));
            }
        } else {
            for claim in claim_all(&store, &ids).await {
                claims.push(granted(claim.unwrap()));
            }
        }
        for _ in 0..2 {
            let renewed = claims
                .iter()
                .map(|claim| store.renew(claim.id(), claim.token(), MINUTE * 2));
            for renewed in join_all(renewed).await {
                renewed.unwrap();
            }
        }
        let record = store.load(&ids[7]).await.unwrap().unwrap();
        assert!(record.lease_remaining().unwrap() > MINUTE);
        for completed in complete_all(&store, claims).await {
            completed.unwrap();
        }
    }
}

/// A task that blocks its worker does so for everything that has given way there.
#[test]
fn a_worker_that_blocks_holds_only_its_own_tasks_up() {
    const BLOCKED: Duration = Duration::from_secs(2);
    for asks_again in [true, false] {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let store = runtime.block_on(server().store(&prefix()));
        runtime.block_on(warm(&store));
        let claim = |key: &'static str| {
            let store = store.clone();
            async move { drop(granted(store.claim(ClaimRequest::new(&id(key), MINUTE)).await.unwrap())) }
        };
        let (blocks, is_blocked) = std::sync::mpsc::channel();
        let (is_busy, busy) = std::sync::mpsc::channel();
        // It keeps the one worker until the other one is blocked.
        let asks = claim("other");
        let other = runtime.spawn(async move {
            is_busy.send(()).unwrap();
            let blocked: Instant = is_blocked.recv().unwrap();
            if asks_again {
                asks.await;
            }
            blocked.elapsed()
        });
        busy.recv().unwrap();
        let (first, second) = (claim("first"), claim("second"));
        let both = runtime.spawn(async move {
            // It runs as soon as this task waits, and before the one that gathers has its turn again.
            tokio::spawn(async move {
                blocks.send(Instant::now()).unwrap();
                std::thread::sleep(BLOCKED);
            });
            let asked = Instant::now();
            futures::join!(first, second);
            asked.elapsed()
        });
        let waited = runtime.block_on(async { (other.await.unwrap(), both.await.unwrap()) });
        println!("asks again: {asks_again}; {waited:?}");
        assert!(waited.0.max(waited.1) < BLOCKED / 2, "{asks_again}: {waited:?}");
    }
}
