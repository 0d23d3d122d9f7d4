//! Claims and completions that are wanted at once share round trips and commits. Each has its own answer, and none waits for another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Watch};
use oneflight_postgres::PostgresStore;
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::postgres::{Schema, server};
use crate::proxy::Proxy;

pub const HOUR: Duration = Duration::from_secs(3600);
pub const LONG: Duration = Duration::from_secs(60);
/// How many callers want something at once.
pub const CALLERS: usize = 64;
/// Far fewer messages than callers, on a machine that is busy as well: one goes out each few milliseconds.
pub const FEW: usize = CALLERS / 4;

pub fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /'orders' \\"), key).unwrap()
}

pub fn result(bytes: &[u8]) -> RecordedResult {
    RecordedResult::value(Verdict::Performed, CodecId::Json, bytes)
}

pub fn claim<'a>(
    store: &'a PostgresStore,
    key: &str,
) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send + 'a {
    store.claim(ClaimRequest::new(&id(key), HOUR).patience(LONG))
}

pub fn granted(outcome: Result<ClaimOutcome, StoreError>) -> Claim {
    match outcome {
        Ok(ClaimOutcome::Granted(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Makes the tables in a session that has ended: so what it has read is among the statistics.
pub async fn make_tables(schema: &Schema, direct: &PgPool) {
    let store = PostgresStore::from_pool(schema.pool(1)).await.unwrap();
    let session = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(store.pool());
    let session = session.await.unwrap();
    store.pool().close().await;
    in_time("the session's end", async {
        let ended = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        let ended = async || sqlx::query_scalar(ended).bind(session).fetch_one(direct).await.unwrap();
        while !ended().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A watch that hears.
pub async fn watched(store: &PostgresStore, id: &RequestIdentity) -> Watch {
    in_time("the watch", async {
        loop {
            let watch = store.watch(id).await;
            if !watch.is_none() {
                return watch;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Waits until so many connections lie idle: some may still be being made by the pool's own task, or be on their way back.
pub async fn until_idle(pool: &PgPool, connections: usize) {
    in_time("the idle connections", async {
        while pool.num_idle() < connections {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A pool that asks nothing by itself before it lends a connection.
pub fn quiet(schema: &Schema, port: u16, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .connect_lazy_with(schema.options.clone().port(port))
}

/// The number of transactions that have written the rows that there are.
pub async fn transactions(pool: &PgPool) -> usize {
    let count = sqlx::query_scalar::<_, i64>("SELECT count(DISTINCT xmin::text) FROM oneflight_records");
    usize::try_from(count.fetch_one(pool).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_at_once_shares_round_trips_and_commits() {
    for prepares in [true, false] {
        let schema = server().schema().await;
        let (proxy, direct) = (Proxy::before(server().port()).await, schema.pool(1));
        let options = match prepares {
            true => PostgresStore::options(),
            false => PostgresStore::options().without_prepared_statements(),
        };
        let store = options.from_pool(quiet(&schema, proxy.port(), 4)).await.unwrap();
        // The first rounds prepare statements, and on a busy machine some calls go alone.
        let mut least = [usize::MAX; 3];
        for round in 0..8 {
            direct.execute("DELETE FROM oneflight_records").await.unwrap();
            let counted = counted(&store, &proxy, &direct, round).await;
            println!("{CALLERS} claims, completions, replays: {counted:?} round trips or transactions");
            least = std::array::from_fn(|part| least[part].min(counted[part]));
        }
        assert!(least.iter().all(|it| *it <= FEW), "{least:?}");
    }
}

/// Claims, completes and asks for what is completed. Returns the round trips that each took, or the transactions, if these were more.
async fn counted(store: &PostgresStore, proxy: &Proxy, direct: &PgPool, round: usize) -> [usize; 3] {
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-'{number}\\")).collect();
    let before = proxy.round_trips();
    let outcomes = join_all(keys.iter().map(|key| claim(store, key))).await;
    let claiming = (proxy.round_trips() - before).max(transactions(direct).await);
    let claims: Vec<_> = outcomes.into_iter().map(granted).collect();
    let tokens: HashSet<_> = claims.iter().map(Claim::token).collect();
    assert_eq!(tokens.len(), CALLERS);
    for (claim, key) in claims.iter().zip(&keys) {
        assert_eq!((claim.id().key(), claim.attempt()), (&**key, 1));
        let record = store.load(claim.id()).await.unwrap().unwrap();
        assert_eq!(record.token, claim.token());
    }

    let before = proxy.round_trips();
    let completions = claims.into_iter().enumerate();
    let completions =
        completions.map(|(number, claim)| store.complete(claim, result(&[u8::try_from(number).unwrap()]), HOUR));
    try_join_all(completions).await.unwrap();
    let completing = (proxy.round_trips() - before).max(transactions(direct).await);

    let before = proxy.round_trips();
    let replays = join_all(keys.iter().map(|key| claim(store, key))).await;
    let replaying = proxy.round_trips() - before;
    for (number, replay) in replays.into_iter().enumerate() {
        let Ok(ClaimOutcome::Denied(Denied::Completed(record))) = replay else {
            panic!("{replay:?}")
        };
        assert_eq!(record.result(), Some(&result(&[u8::try_from(number).unwrap()])));
    }
    [claiming, completing, replaying]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_call_goes_out_at_once_in_one_round_trip() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let store = PostgresStore::from_pool(quiet(&schema, proxy.port(), 1)).await.unwrap();
    let call = async |key: &str| {
        let claim = granted(claim(&store, key).await);
        store.complete(claim, result(b"1"), HOUR).await.unwrap();
    };
    call("prepares").await;
    let none_is_lent = async || {
        while store.pool().num_idle() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    none_is_lent().await;
    // And by the procedure for one: a call of these would have to go again.
    let drop_them =
        "DO $$ BEGIN EXECUTE (SELECT 'DROP PROCEDURE ' || string_agg(oid::regprocedure::text, ', ') FROM pg_proc
                     WHERE proname LIKE '%\\_together' AND pronamespace = current_schema()::regnamespace); END $$";
    schema.pool(1).execute(drop_them).await.unwrap();
    let before = proxy.round_trips();
    for number in 0..10 {
        call(&format!("{number}")).await;
    }
    none_is_lent().await;
    // The pool asks once by itself, whenever a connection is given back.
    assert_eq!(proxy.round_trips() - before, 2 * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_want_one_key_at_once_have_one_holder() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    for round in 0..20 {
        let keys = (0..CALLERS).map(|number| format!("{round}-{}", number % 4));
        let outcomes = join_all(keys.map(|key| async { claim(&store, &{ key }).await })).await;
        let mut holders = 0;
        for outcome in outcomes {
            match outcome.unwrap() {
                ClaimOutcome::Granted(_) => holders += 1,
                ClaimOutcome::Denied(denied) => assert!(matches!(denied, Denied::InProgress { .. }), "{denied:?}"),
            }
        }
        assert_eq!(holders, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_are_kept_and_told_among_small_ones() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    // Some share neither a message nor an answer, and some an answer only.
    let result = |number: usize| result(&vec![b'7'; [1, 4_000, 9_000, 200_000][number % 4]]);
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let completions = claims.into_iter().enumerate();
    let completions = completions.map(|(number, outcome)| store.complete(granted(outcome), result(number), HOUR));
    try_join_all(completions).await.unwrap();
    let replays = join_all(keys.iter().map(|key| claim(&store, key))).await;
    for (number, replay) in replays.into_iter().enumerate() {
        match replay {
            Ok(ClaimOutcome::Denied(Denied::Completed(record))) => assert_eq!(record.result(), Some(&result(number))),
            other => panic!("{number}: {other:?}"),
        }
    }
}

/// What the pool does before it lends is a round trip of its own, unless it is told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_follows_at_once_has_the_connection_of_the_one_before() {
    let schema = server().schema().await;
    let (direct, lent) = (schema.pool(1), Arc::new(AtomicUsize::new(0)));
    let [made, tested] = [(); 2].map(|()| Arc::clone(&lent));
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .after_connect(move |_, _| {
            made.fetch_add(1, SeqCst);
            Box::pin(async { Ok(()) })
        })
        .before_acquire(move |_, _| {
            tested.fetch_add(1, SeqCst);
            Box::pin(async { Ok(true) })
        })
        .connect_lazy_with(schema.options.clone());
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    in_time("a connection that is taken over", async {
        for round in 0.. {
            let callers = (0..CALLERS / 4).map(|caller| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0..8 {
                        let outcome = claim(&store, &format!("{round}-{caller}-{number}")).await;
                        drop(granted(outcome));
                    }
                })
            });
            try_join_all(callers).await.unwrap();
            if lent.load(SeqCst) < transactions(&direct).await {
                break;
            }
        }
    })
    .await;
    in_time("what is kept for nobody", async {
        while pool.num_idle() < usize::try_from(pool.size()).unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
