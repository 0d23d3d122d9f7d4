//! `acknowledged_by`: nothing is called granted or recorded before so many replicas have it, also if it is asked again, over
//! another connection, because the first answer was lost.
//!
//! `WAIT` is answered for what its own connection has written. (Redis before 7.2 counts all that the server had written by then;
//! since 7.2, and in Valkey, a connection that has written nothing is answered at once.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oneflight::idempotency::{Effect, ErrorKind, Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, HolderId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError};
use oneflight_redis::{RedisOptions, RedisStore};
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::task::JoinHandle;

use crate::proxy::{Cut, Proxy};
use crate::server::{Server, cluster, replica_in_cluster};

const MINUTE: Duration = Duration::from_secs(60);
/// How long replicas are waited for that do not answer. A connection is to be lost meanwhile.
const WITHIN: Duration = Duration::from_secs(1);

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

fn wanted(replicas: u32) -> RedisOptions {
    RedisStore::options().acknowledged_by(replicas, WITHIN)
}

fn is_too_few(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::TooFewReplicas {
            acknowledged: 0,
            wanted: 1,
            ..
        }
    )
}

/// What a server says of its replication.
async fn replication(connection: &mut MultiplexedConnection) -> String {
    let info = cmd("INFO").arg("replication").query_async(connection).await;
    info.unwrap()
}

/// A server and its replica, which follows.
async fn pair() -> (Server, Server) {
    // Nothing is passed on but what is written.
    let primary = Server::start(&["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "3600"]);
    let port = primary.port().to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
    follows(&replica).await;
    knows_the_scripts(&primary.store_with(RedisStore::options()).await).await;
    (primary, replica)
}

/// What a server does not know is sent twice, each time with a `WAIT` of its own.
async fn knows_the_scripts(store: &RedisStore) {
    let id = id("first");
    let claim = granted(store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap());
    store.complete(claim, result(), MINUTE).await.unwrap();
    assert!(store.load(&id).await.unwrap().is_some());
}

async fn follows(replica: &Server) {
    let until = Instant::now() + MINUTE;
    let mut connection = replica.connection().await;
    while !replication(&mut connection).await.contains("master_link_status:up") {
        assert!(Instant::now() < until, "it does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until some client of the server waits for replicas.
async fn replicas_are_waited_for(mut connection: MultiplexedConnection) {
    let until = Instant::now() + MINUTE;
    loop {
        let info: String = cmd("INFO").arg("clients").query_async(&mut connection).await.unwrap();
        if info.contains("blocked_clients:1") {
            return;
        }
        assert!(Instant::now() < until, "nobody waits for replicas");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Loses all connections through a proxy as soon as replicas are waited for.
async fn cut_in_wait(primary: &Server, proxy: &Arc<Proxy>) -> JoinHandle<()> {
    let (connection, proxy) = (primary.connection().await, Arc::clone(proxy));
    tokio::spawn(async move {
        replicas_are_waited_for(connection).await;
        proxy.cut_all();
    })
}

/// A store that is reached through a proxy.
async fn through(proxy: &Proxy, options: RedisOptions) -> RedisStore {
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    options.open(url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_found_after_its_answer_was_lost_is_recorded_only_when_it_is_acknowledged() {
    let (primary, replica) = pair().await;
    let (primary, replica) = (Arc::new(primary), Arc::new(replica));
    let proxy = Arc::new(Proxy::before(primary.port()).await);
    let builder = Idempotency::builder(through(&proxy, wanted(1)).await);
    // A result is tried to be recorded for that long at least.
    let idem = builder.lease(Duration::from_secs(5)).build();
    let executed = Arc::new(AtomicUsize::new(0));
    let cut = Arc::new(Mutex::new(None));
    let work = |stops: bool| {
        let (primary, replica, proxy) = (Arc::clone(&primary), Arc::clone(&replica), Arc::clone(&proxy));
        let (executed, cut) = (Arc::clone(&executed), Arc::clone(&cut));
        move |_| async move {
            if stops {
                replica.signal("STOP");
                let cutting = cut_in_wait(&primary, &proxy).await;
                cut.lock().unwrap().replace(cutting);
            }
            executed.fetch_add(1, SeqCst) + 1
        }
    };
    let error = idem.run(id("k"), work(true)).await.unwrap_err();
    let ErrorKind::Unrecorded(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(is_too_few(source), "{source:?}");
    let cutting = cut.lock().unwrap().take().unwrap();
    cutting.await.unwrap();
    // Nor does any other call hear of a result that a failover may lose.
    let error = idem.run(id("k"), work(false)).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Store(source) if is_too_few(source)) && error.effect() == Effect::Nothing,
        "{error:?}"
    );
    replica.signal("CONT");
    let reply = idem.run(id("k"), work(false)).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    assert_eq!(executed.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_asked_for_again_is_granted_only_when_it_is_acknowledged() {
    let (primary, replica) = pair().await;
    let proxy = Arc::new(Proxy::before(primary.port()).await);
    let store = through(&proxy, wanted(1)).await;
    let (id, holder) = (id("k"), HolderId::random());
    let request = ClaimRequest::new(&id, MINUTE).holder(holder);
    replica.signal("STOP");
    let cutting = cut_in_wait(&primary, &proxy).await;
    let lost = store.claim(request.clone()).await.unwrap_err();
    cutting.await.unwrap();
    assert!(matches!(lost, StoreError::Unavailable { .. }), "{lost:?}");
    for asked in ["over the next connection", "over another process's"] {
        let store = through(&proxy, wanted(1)).await;
        let answer = store.claim(request.clone()).await.unwrap_err();
        assert!(is_too_few(&answer), "{asked}: {answer:?}");
    }
    // Work is not begun under such a claim, and the claim is not left to its lease.
    let cutting = cut_in_wait(&primary, &proxy).await;
    let idem = Idempotency::builder(store.clone()).build();
    let other = RequestIdentity::new(Scope::new("tenant-7"), "other").unwrap();
    let error = idem.run(other.clone(), |_| async { unreachable!("it has no claim") as u32 });
    let error = error.await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
    // One answer was lost, and no replica acknowledges that the claim is given back.
    assert_eq!(error.effect(), Effect::Unknown);
    cutting.await.unwrap();
    idem.drain().await;
    assert!(store.load(&other).await.unwrap().is_none());
    replica.signal("CONT");
    let patient = primary
        .store_with(RedisStore::options().acknowledged_by(1, MINUTE))
        .await;
    let claim = granted(patient.claim(request.clone()).await.unwrap());
    assert_eq!(claim.attempt(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_taken_is_told_of_although_later_tries_reach_nobody() {
    let (primary, replica) = pair().await;
    let proxy = Proxy::before(primary.port()).await;
    let idem = Idempotency::builder(through(&proxy, wanted(1)).await).build();
    let id = id("k");
    replica.signal("STOP");
    let asking = tokio::spawn({
        let (idem, id) = (idem.clone(), id.clone());
        async move { idem.run(id, |_| async { 1 }).await }
    });
    replicas_are_waited_for(primary.connection().await).await;
    // An argument of claims, and of nothing else.
    proxy.cut_times("\r\nnever\r\n", Cut::Before, usize::MAX);
    let error = asking.await.unwrap().unwrap_err();
    assert!(proxy.cuts() > 0);
    assert!(
        matches!(error.kind(), ErrorKind::Store(source) if is_too_few(source)) && error.effect() == Effect::Unknown,
        "{error:?}"
    );
    // And it is given back.
    proxy.disarm();
    idem.drain().await;
    let plain = primary.store_with(RedisStore::options()).await;
    assert!(plain.load(&id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_is_asked_for_again_succeeds_only_when_it_is_acknowledged() {
    let (primary, replica) = pair().await;
    let proxy = Arc::new(Proxy::before(primary.port()).await);
    let store = through(&proxy, wanted(1)).await;
    let id = id("k");
    let claim = granted(store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap());
    let again = || Claim::new(id.clone(), claim.token(), claim.attempt(), None);
    replica.signal("STOP");
    let cutting = cut_in_wait(&primary, &proxy).await;
    let lost = store.complete(again(), result(), MINUTE).await.unwrap_err();
    cutting.await.unwrap();
    assert!(matches!(lost, StoreError::Unavailable { .. }), "{lost:?}");
    let answer = store.complete(again(), result(), MINUTE).await.unwrap_err();
    assert!(is_too_few(&answer), "{answer:?}");
    let answer = store.load(&id).await.unwrap_err();
    assert!(is_too_few(&answer), "{answer:?}");
    let answer = store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap_err();
    assert!(is_too_few(&answer), "{answer:?}");
    // A store that does not ask for replicas is told what the server has.
    let plain = primary.store_with(RedisStore::options()).await;
    assert_eq!(plain.load(&id).await.unwrap().unwrap().result(), Some(&result()));

    replica.signal("CONT");
    let patient = primary
        .store_with(RedisStore::options().acknowledged_by(1, MINUTE))
        .await;
    patient.complete(again(), result(), MINUTE).await.unwrap();
    assert_eq!(patient.load(&id).await.unwrap().unwrap().result(), Some(&result()));
    let outcome = patient.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap();
    assert!(
        matches!(outcome, ClaimOutcome::Denied(Denied::Completed(_))),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_acknowledges_again_what_it_is_asked_again() {
    let primary = cluster(1).await.remove(0);
    let replica = replica_in_cluster(&primary).await;
    follows(&replica).await;
    let open = async |within| {
        let options = RedisStore::options().acknowledged_by(1, within);
        options.open_cluster([primary.url()]).await.unwrap()
    };
    let store = open(WITHIN).await;
    knows_the_scripts(&store).await;
    let id = id("k");
    let claim = granted(store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap());
    let again = || Claim::new(id.clone(), claim.token(), claim.attempt(), None);
    replica.signal("STOP");
    // The client of a cluster asks again by itself when its connection is lost.
    let mut killer = primary.connection().await;
    let asking = tokio::spawn({
        let (store, claim) = (store.clone(), again());
        async move { store.complete(claim, result(), MINUTE).await }
    });
    replicas_are_waited_for(killer.clone()).await;
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal");
    assert!(kill.query_async::<usize>(&mut killer).await.unwrap() > 0);
    let answer = asking.await.unwrap().unwrap_err();
    assert!(is_too_few(&answer), "{answer:?}");
    let answer = store.load(&id).await.unwrap_err();
    assert!(is_too_few(&answer), "{answer:?}");
    replica.signal("CONT");
    open(MINUTE).await.complete(again(), result(), MINUTE).await.unwrap();
}

/// Not every server answers `WAIT` by what its connection has written; so that is looked at here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_found_is_written_again_for_who_waits_for_replicas_and_for_nobody_else() {
    let (primary, _replica) = pair().await;
    let mut connection = primary.connection().await;
    let mut offset = async || -> u64 {
        let info = replication(&mut connection).await;
        let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        offset.unwrap().parse().unwrap()
    };
    // None is waited for, so none is asked how far it is.
    for (options, writes) in [(wanted(0), true), (RedisStore::options(), false)] {
        let store = primary.store_with(options.prefix(format!("{writes}:"))).await;
        let (id, holder) = (id("k"), HolderId::random());
        let request = ClaimRequest::new(&id, MINUTE).holder(holder);
        let claim = granted(store.claim(request.clone()).await.unwrap());
        let again = || Claim::new(id.clone(), claim.token(), claim.attempt(), None);

        let before = offset().await;
        let found = granted(store.claim(request).await.unwrap());
        assert_eq!((found.token(), found.attempt()), (claim.token(), claim.attempt()));
        assert_eq!(offset().await > before, writes, "a claim");

        store.complete(again(), result(), MINUTE).await.unwrap();
        let record = store.load(&id).await.unwrap().unwrap();
        let before = offset().await;
        store.complete(again(), result(), MINUTE * 2).await.unwrap();
        assert_eq!(offset().await > before, writes, "a completion");

        let before = offset().await;
        let found = store.load(&id).await.unwrap().unwrap();
        assert_eq!(offset().await > before, writes, "a look");
        // It is the same record.
        assert_eq!((&found.state, found.token), (&record.state, record.token));

        let before = offset().await;
        let outcome = store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::Denied(Denied::Completed(_))),
            "{outcome:?}"
        );
        assert_eq!(offset().await > before, writes, "a replay");

        // What tells of nothing durable writes nothing.
        let absent = RequestIdentity::new(Scope::new("tenant-7"), "absent").unwrap();
        let before = offset().await;
        assert!(store.load(&absent).await.unwrap().is_none());
        assert_eq!(offset().await, before);
    }
}
