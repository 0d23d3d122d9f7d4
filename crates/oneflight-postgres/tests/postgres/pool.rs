//! What a pool that has nothing to lend, and a server that does not answer, do to holders of claims and to callers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::idempotency::{Idempotency, Origin, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Ending, Store, StoreError, TransactionalStore};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::{Notify, oneshot};

use crate::postgres::{Schema, server};
use crate::proxy::{Cut, Proxy};

/// More than anything here takes, and less than the store's patience.
const SOON: Duration = Duration::from_secs(15);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(SOON, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

async fn claimed(store: &PostgresStore, key: &str) -> Claim {
    match store.claim(ClaimRequest::new(&id(key), SOON)).await.unwrap() {
        ClaimOutcome::Granted(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// How many connections of this name the server has.
async fn connections(direct: &PgPool, name: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1")
        .bind(name)
        .fetch_one(direct)
        .await
        .unwrap()
}

/// A pool whose connections the server knows by the schema's name.
fn named(schema: &Schema, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(schema.options.clone().application_name(&schema.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_all_in_transactions_costs_no_holder_its_lease() {
    const CONNECTIONS: u32 = 3;
    let schema = server().schema().await;
    let build = |pool: PgPool| async {
        let builder = Idempotency::builder(PostgresStore::from_pool(pool).await.unwrap());
        builder
            .lease(Duration::from_millis(900))
            .wait(Duration::from_secs(30))
            .recovery(Recovery::Rerun)
            .build()
    };
    let (one, two) = (build(named(&schema, CONNECTIONS)).await, build(schema.pool(3)).await);
    let executions = Arc::new(AtomicUsize::new(0));
    let (enters, entered) = oneshot::channel();
    let holding = tokio::spawn({
        let (one, executions) = (one.clone(), Arc::clone(&executions));
        async move {
            let work = one.run(id("held"), move |_| async move {
                executions.fetch_add(1, SeqCst);
                enters.send(()).unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
                1
            });
            work.await.map(|reply| *reply)
        }
    });
    entered.await.unwrap();
    // All connections of its pool, until it has ended.
    let leave = Arc::new(Notify::new());
    let others: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (one, leave) = (one.clone(), Arc::clone(&leave));
            let (enters, entered) = oneshot::channel();
            let task = tokio::spawn(async move {
                let work = one.run_in_tx(id(&format!("other-{number}")), move |_| async move {
                    enters.send(()).unwrap();
                    leave.notified().await;
                    Ok(1)
                });
                work.await.map(drop)
            });
            (entered, task)
        })
        .collect();
    let mut tasks = Vec::new();
    for (entered, task) in others {
        entered.await.unwrap();
        tasks.push(task);
    }
    let mut waiting = tokio::spawn({
        let executions = Arc::clone(&executions);
        async move {
            let work = two.run(id("held"), move |_| async move {
                executions.fetch_add(1, SeqCst);
                2
            });
            let reply = work.await.unwrap();
            (*reply, reply.origin())
        }
    });
    let (direct, mut most) = (schema.pool(1), 0);
    let replayed = soon("the waiter", async {
        loop {
            tokio::select! {
                replayed = &mut waiting => return replayed.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    most = most.max(connections(&direct, &schema.name).await);
                }
            }
        }
    });
    assert_eq!(replayed.await, (1, Origin::Replayed));
    assert_eq!(soon("the holder", holding).await.unwrap().unwrap(), 1);
    assert_eq!(executions.load(SeqCst), 1);
    assert!(most > i64::from(CONNECTIONS), "{most}");
    // One that was renewing as its holder ended is closed.
    let there = connections(&direct, &schema.name).await;
    assert!(there <= i64::from(CONNECTIONS) + 1, "{there}");
    leave.notify_waiters();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_do_what_they_must_while_the_user_keeps_the_whole_pool() {
    let schema = server().schema().await;
    let pool = named(&schema, 2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let (renewed, completed) = (claimed(&store, "renewed").await, claimed(&store, "completed").await);
    let released = claimed(&store, "released").await;
    let kept = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    // All at once, over the one connection that there is for them.
    let (renewal, completion, release) = tokio::join!(
        soon("renewal", store.renew(renewed.id(), renewed.token(), SOON)),
        soon("completion", store.complete(completed, result, SOON)),
        soon("release", store.release(released)),
    );
    renewal.and(completion).and(release).unwrap();
    let loaded = soon("look-up", store.load(&id("completed"))).await;
    assert!(loaded.unwrap().unwrap().result().is_some());
    assert_eq!(connections(&schema.pool(1), &schema.name).await, 3);
    // A call that asks for a claim waits for the pool, as long as it is ready to.
    let asked = id("asked");
    let request = ClaimRequest::new(&asked, SOON).patience(Duration::from_millis(300));
    let answer = soon("the claim", store.claim(request)).await;
    assert!(matches!(answer, Err(StoreError::NoConnection)), "{answer:?}");
    drop(kept);
    let _asked = claimed(&store, "asked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_pool_lends_at_once_there_is_no_other_connection() {
    let mut least = i64::MAX;
    // On a busy machine it may not lend at once.
    for _ in 0..5 {
        let schema = server().schema().await;
        let store = PostgresStore::from_pool(named(&schema, 2)).await.unwrap();
        for number in 0..20 {
            let claim = claimed(&store, &format!("{number}")).await;
            store.renew(claim.id(), claim.token(), SOON).await.unwrap();
            store.release(claim).await.unwrap();
        }
        least = least.min(connections(&schema.pool(1), &schema.name).await);
        if least <= 2 {
            return;
        }
    }
    panic!("{least}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reserved_connection_has_the_pool_s_hooks_and_its_options_as_they_are_by_then() {
    let schema = server().schema().await;
    let old = Proxy::before(server().port()).await;
    let hooked = Arc::new(AtomicUsize::new(0));
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .after_connect({
            let hooked = Arc::clone(&hooked);
            move |_, _| {
                hooked.fetch_add(1, SeqCst);
                Box::pin(async { Ok(()) })
            }
        })
        .connect_lazy_with(schema.options.clone().port(old.port()));
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let claim = claimed(&store, "held").await;
    let kept = pool.acquire().await.unwrap();
    for made in [2, 3] {
        soon("renewal", store.renew(claim.id(), claim.token(), SOON))
            .await
            .unwrap();
        assert_eq!(hooked.load(SeqCst), made);
        // As when a password was changed: the old way is closed.
        pool.set_connect_options(schema.options.clone());
        old.cut_all();
        old.cut_times("", Cut::Before, usize::MAX);
    }
    drop(kept);
}

/// What keeps a server from answering.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Nothing listens there any more.
    Refuses,
    /// Nothing comes back, and no client is told.
    Swallows,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_server_that_does_not_answer_is_told_within_its_own_time() {
    let schema = server().schema().await;
    for trouble in [Trouble::Refuses, Trouble::Swallows] {
        let mut proxy = Some(Proxy::before(server().port()).await);
        let port = proxy.as_ref().unwrap().port();
        let store = PostgresStore::from_pool(schema.pool_through(port, 4)).await.unwrap();
        let _claim = claimed(&store, &format!("{trouble:?}")).await;
        match trouble {
            Trouble::Refuses => drop(proxy.take()),
            Trouble::Swallows => proxy.as_ref().unwrap().cut_times("", Cut::Swallowed, usize::MAX),
        }
        let asked = id("asked");
        let request = ClaimRequest::new(&asked, SOON).patience(Duration::from_millis(700));
        let begun = Instant::now();
        let claim = soon("the claim", store.claim(request.clone())).await;
        assert!(
            matches!(claim, Err(StoreError::Unavailable { .. })),
            "{trouble:?}: {claim:?}"
        );
        let transacted = store.transact(request, |_| async { (Ending::RollBack, ()) });
        let transacted = soon("the transaction", transacted).await;
        assert!(
            matches!(transacted, Err(StoreError::Unavailable { .. })),
            "{trouble:?}: {transacted:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{trouble:?}: {:?}",
            begun.elapsed()
        );
        // And so is its caller.
        let idem = Idempotency::builder(store).wait(Duration::from_secs(2)).build();
        let called = idem.run_in_tx(id("called"), |_| async { Ok(1) });
        assert!(soon("the call", called).await.is_err(), "{trouble:?}");
        drop(proxy);
    }
}
