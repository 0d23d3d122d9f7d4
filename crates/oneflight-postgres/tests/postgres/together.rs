//! Claims and completions that are wanted at once share round trips and commits. Each has its own answer, and none waits for another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{MaybeDone, join_all, maybe_done, try_join_all};
use futures::poll;
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover};
use oneflight_postgres::PostgresStore;
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::postgres::{Schema, Server, server};
use crate::proxy::{Cut, Proxy};

const HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(60);
/// How many callers want something at once.
const CALLERS: usize = 64;
/// Far fewer messages than callers, on a machine that is busy as well: one goes out each few milliseconds.
const FEW: usize = CALLERS / 4;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /'orders' \\"), key).unwrap()
}

fn result(bytes: &[u8]) -> RecordedResult {
    RecordedResult::value(Verdict::Performed, CodecId::Json, bytes)
}

fn claim<'a>(
    store: &'a PostgresStore,
    key: &str,
) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send + 'a {
    store.claim(ClaimRequest::new(&id(key), HOUR).patience(LONG))
}

fn granted(outcome: Result<ClaimOutcome, StoreError>) -> Claim {
    match outcome {
        Ok(ClaimOutcome::Granted(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// A pool that asks nothing by itself before it lends a connection.
fn quiet(schema: &Schema, port: u16, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .connect_lazy_with(schema.options.clone().port(port))
}

/// The number of transactions that have written the rows that there are.
async fn transactions(pool: &PgPool) -> usize {
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
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-'{number}\\")).collect();
        // What is prepared is prepared, in one session at least.
        for part in ["warm", "warmer"] {
            let warm = join_all((0..4).map(|number| format!("{part}-{number}")).map(|key| {
                let store = &store;
                async move { granted(claim(store, &key).await) }
            }));
            let complete = |claim| store.complete(claim, result(b"0"), HOUR);
            try_join_all(warm.await.into_iter().map(complete)).await.unwrap();
        }
        direct.execute("DELETE FROM oneflight_records").await.unwrap();

        let before = proxy.round_trips();
        let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let (trips, claims): (_, Vec<_>) = (
            proxy.round_trips() - before,
            outcomes.into_iter().map(granted).collect(),
        );
        let commits = transactions(&direct).await;
        println!("{CALLERS} claims: {trips} round trips, {commits} transactions");
        assert!(trips <= FEW && commits <= FEW, "{trips}, {commits}");
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
        let (trips, commits) = (proxy.round_trips() - before, transactions(&direct).await);
        println!("{CALLERS} completions: {trips} round trips, {commits} transactions");
        assert!(trips <= FEW && commits <= FEW, "{trips}, {commits}");

        let before = proxy.round_trips();
        let replays = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let trips = proxy.round_trips() - before;
        println!("{CALLERS} replays: {trips} round trips");
        assert!(trips <= FEW, "{trips}");
        for (number, replay) in replays.into_iter().enumerate() {
            let Ok(ClaimOutcome::Denied(Denied::Completed(record))) = replay else {
                panic!("{replay:?}")
            };
            assert_eq!(record.result(), Some(&result(&[u8::try_from(number).unwrap()])));
        }
    }
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
async fn what_the_server_rejects_fails_alone() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let guard = "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.key = 'claim-13' OR (NEW.key = 'complete-13' AND NEW.result IS NOT NULL) THEN
                 RAISE check_violation USING MESSAGE = 'not this one';
             END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION guard()";
    store.pool().execute(guard).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("claim-{number}")).collect();
    let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            13 => assert!(outcome.unwrap_err().to_string().contains("not this one")),
            _ => drop(granted(outcome)),
        }
    }
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("complete-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let completions = claims
        .into_iter()
        .map(|outcome| store.complete(granted(outcome), result(b"1"), HOUR));
    for (number, completed) in join_all(completions).await.into_iter().enumerate() {
        assert_eq!(completed.is_err(), number == 13, "{number}: {completed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_others_have_locked_holds_up_its_own_callers_and_no_others() {
    let schema = server().schema().await;
    let (store, direct) = (PostgresStore::from_pool(schema.pool(8)).await.unwrap(), schema.pool(1));
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let lock = "SELECT FROM oneflight_records WHERE key IN ('key-5', 'key-50') FOR UPDATE";
    let expire = "UPDATE oneflight_records SET lease_expires_at = 1 WHERE key IN ('key-5', 'key-50')";

    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let mut elsewhere = direct.begin().await.unwrap();
    elsewhere.execute(lock).await.unwrap();
    let completions = claims
        .into_iter()
        .map(|outcome| Box::pin(store.complete(granted(outcome), result(b"1"), HOUR)));
    let held_up = in_time("the completions", all_but(2, completions)).await;
    assert_eq!(held_up.len(), 2);
    elsewhere.rollback().await.unwrap();
    for held_up in held_up {
        in_time("a completion that was held up", held_up).await.unwrap();
    }

    // What is free as soon as a lease is over is locked by its holder's claim.
    direct.execute("DELETE FROM oneflight_records").await.unwrap();
    join_all([5, 50].map(|number| claim(&store, &keys[number]))).await;
    direct.execute(expire).await.unwrap();
    let mut elsewhere = direct.begin().await.unwrap();
    elsewhere.execute(lock).await.unwrap();
    let claims = keys.iter().map(|key| {
        let request = ClaimRequest::new(&id(key), HOUR).takeover(Takeover::Expired);
        Box::pin(store.claim(request.patience(LONG)))
    });
    let held_up = in_time("the claims", all_but(2, claims)).await;
    assert_eq!(held_up.len(), 2);
    elsewhere.rollback().await.unwrap();
    for held_up in held_up {
        let claim = granted(in_time("a claim that was held up", held_up).await);
        assert_eq!(claim.attempt(), 2);
    }
}

/// Waits for all of these but so many, which it returns.
async fn all_but<T: std::fmt::Debug, F>(left: usize, futures: impl Iterator<Item = Pin<Box<F>>>) -> Vec<Pin<Box<F>>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut futures: Vec<_> = futures.collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(answer) => {
                answer.unwrap();
                false
            }
            Poll::Pending => true,
        });
        match futures.len() <= left {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    futures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_is_about_to_do_is_in_progress_for_a_claim_among_others() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    let (enters, entered) = tokio::sync::oneshot::channel();
    let (leaves, left) = tokio::sync::oneshot::channel::<()>();
    let transaction = tokio::spawn({
        let idem = Idempotency::builder(store.clone()).build();
        async move {
            let work = idem.run_in_tx(id("key-7"), move |_| async move {
                enters.send(()).unwrap();
                left.await.unwrap();
                Ok(1)
            });
            work.await.map(|reply| *reply)
        }
    });
    entered.await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let outcomes = in_time("the claims", join_all(keys.iter().map(|key| claim(&store, key)))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            7 => assert!(
                matches!(outcome, Ok(ClaimOutcome::Denied(Denied::InProgress { .. }))),
                "{outcome:?}"
            ),
            _ => drop(granted(outcome)),
        }
    }
    leaves.send(()).unwrap();
    assert_eq!(transaction.await.unwrap().unwrap(), 1);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_answered_holds_up_its_own_callers_and_no_others() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // Its connections are made, and none is tested: the first message is swallowed.
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .min_connections(4)
        .test_before_acquire(false)
        .connect_with(schema.options.clone().port(proxy.port()))
        .await
        .unwrap();
    let store = PostgresStore::from_pool(pool).await.unwrap();
    proxy.cut("", Cut::Swallowed);
    let mut unanswered = Box::pin(claim(&store, "unanswered"));
    assert!(poll!(&mut unanswered).is_pending());
    while proxy.cuts() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let outcomes = in_time("the others", join_all(keys.iter().map(|key| claim(&store, key)))).await;
    let claims: Vec<_> = outcomes.into_iter().map(granted).collect();
    assert!(poll!(&mut unanswered).is_pending());

    // And now one of several: half of the callers are told when their patience is over, and the others are not.
    let request = |key: &str| ClaimRequest::new(&id(key), HOUR).patience(Duration::from_secs(2));
    proxy.cut("", Cut::Swallowed);
    let mut second = Box::pin(claim(&store, "second"));
    assert!(poll!(&mut second).is_pending());
    while proxy.cuts() == 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.cut("", Cut::Swallowed);
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("late-{number}")).collect();
    let outcomes = in_time(
        "those of one message",
        join_all(keys.iter().map(|key| store.claim(request(key)))),
    )
    .await;
    let late = outcomes.iter().filter(|it| it.is_err()).count();
    assert_eq!(proxy.cuts(), 3);
    assert!((1..=CALLERS).contains(&late), "{late}");
    for outcome in outcomes {
        if let Err(error) = outcome {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        }
    }
    proxy.disarm();
    let complete = |claim| store.complete(claim, result(b"1"), HOUR);
    in_time("the completions", try_join_all(claims.into_iter().map(complete)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_dropped_or_never_polled_again_hold_up_no_others() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    let mut kept: Vec<Pin<Box<MaybeDone<_>>>> = Vec::new();
    for round in 0..20 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let claim = |key| Box::pin(maybe_done(claim(&store, key)));
        let mut claims: Vec<_> = keys.iter().map(|key| Some(claim(key))).collect();
        for claim in claims.iter_mut().flatten() {
            let _ = poll!(claim);
        }
        for (number, claim) in claims.iter_mut().enumerate() {
            match number % 4 {
                // The first was sent by its caller, and has a connection.
                0 if number > 0 || round == 0 => kept.extend(claim.take()),
                1 => drop(claim.take()),
                _ => {}
            }
        }
        let mut others: Vec<_> = claims.into_iter().flatten().collect();
        in_time("the others", join_all(others.iter_mut().map(Pin::as_mut))).await;
        for other in &mut others {
            let claim = granted(other.as_mut().take_output().unwrap());
            store.release(claim).await.unwrap();
        }
    }
    // Those that were kept have an answer.
    in_time("those that were kept", join_all(kept.iter_mut().map(Pin::as_mut))).await;
    for kept in &mut kept {
        drop(granted(kept.as_mut().take_output().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_ends_leaves_no_caller_of_another_one_waiting() {
    let schema = server().schema().await;
    let store = Arc::new(PostgresStore::from_pool(schema.pool(8)).await.unwrap());
    for round in 0..20 {
        let ends = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for number in 0..CALLERS {
            let store = Arc::clone(&store);
            ends.spawn(async move { claim(&store, &format!("ends-{round}-{number}")).await.map(drop) });
        }
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("stays-{round}-{number}")).collect();
        let staying = join_all(keys.iter().map(|key| claim(&store, key)));
        let ending = async {
            tokio::time::sleep(Duration::from_millis(round % 4)).await;
            ends.shutdown_background();
        };
        // Each is answered, if only with an error: the connection may have been the other runtime's.
        let (outcomes, ()) = in_time("those that stay", futures::future::join(staying, ending)).await;
        assert_eq!(outcomes.len(), CALLERS);
    }
    // And the next are answered as ever, once those connections are gone.
    in_time("the next", async {
        while claim(&store, "next").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_that_want_the_same_keys_in_opposite_orders_have_one_holder_each_and_no_deadlock() {
    const KEYS: usize = 200;
    let schema = server().schema().await;
    let mut stores = Vec::new();
    for _ in 0..2 {
        stores.push(PostgresStore::from_pool(schema.pool(8)).await.unwrap());
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    for round in 0..15 {
        let asking = stores.iter().enumerate().map(|(process, store)| {
            let store = store.clone();
            tokio::spawn(async move {
                let keys = (0..KEYS).map(move |number| match process {
                    0 => number,
                    _ => KEYS - 1 - number,
                });
                let claims = keys.map(|number| {
                    let store = &store;
                    async move {
                        let claimed = claim(store, &format!("{round}-{number}")).await.unwrap();
                        match claimed {
                            ClaimOutcome::Granted(claim) => {
                                store.complete(claim, result(b"1"), HOUR).await.unwrap();
                                Some(number)
                            }
                            ClaimOutcome::Denied(_) => None,
                        }
                    }
                });
                join_all(claims).await.into_iter().flatten().collect::<Vec<_>>()
            })
        });
        let held = in_time("the two", try_join_all(asking)).await.unwrap().concat();
        let once: HashSet<_> = held.iter().collect();
        assert_eq!((held.len(), once.len()), (KEYS, KEYS));
    }
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(stores[0].pool()).await.unwrap();
    assert_eq!(deadlocks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_taken_over_learns_it_among_others_as_well() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let completions = claims.into_iter().enumerate().map(|(number, outcome)| {
        let claim = granted(outcome);
        let claim = match number {
            7 => Claim::new(id("key-7"), FencingToken::new(claim.token().get() + 1_000), 1, None),
            _ => claim,
        };
        store.complete(claim, result(b"1"), HOUR)
    });
    for (number, completed) in join_all(completions).await.into_iter().enumerate() {
        match number {
            7 => assert!(matches!(completed, Err(StoreError::Outdated { .. })), "{completed:?}"),
            _ => completed.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_of_one_moment_go_over_the_reserve_while_the_pool_is_used_up() {
    let schema = server().schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let kept = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let completions = claims
        .into_iter()
        .map(|outcome| store.complete(granted(outcome), result(b"1"), HOUR));
    in_time("the completions", try_join_all(completions)).await.unwrap();
    // Who asks for a claim is told within its own time, and nothing was done.
    let asked = keys.iter().map(|key| {
        let id = id(&format!("asked-{key}"));
        store.claim(ClaimRequest::new(&id, HOUR).patience(Duration::from_millis(300)))
    });
    for answer in in_time("the claims", join_all(asked)).await {
        assert!(matches!(answer, Err(StoreError::NoConnection)), "{answer:?}");
    }
    drop(kept);
    assert!(matches!(
        claim(&store, "asked-key-1").await,
        Ok(ClaimOutcome::Granted(_))
    ));
}

#[test]
fn a_runtime_that_rests_holds_up_no_caller_of_another_one() {
    let rests = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let runs = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = runs.block_on(async {
        let schema = server().schema().await;
        PostgresStore::from_pool(schema.pool(8)).await.unwrap()
    });
    let mut resting = Vec::new();
    rests.block_on(async {
        for number in 0..4 {
            let store = store.clone();
            let mut asked = Box::pin(async move { claim(&store, &format!("rests-{number}")).await });
            let _ = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            resting.push(asked);
        }
    });
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = runs.block_on(in_time(
        "the others",
        join_all(keys.iter().map(|key| claim(&store, key))),
    ));
    claims.into_iter().for_each(|outcome| drop(granted(outcome)));
    let _entered = rests.enter();
    drop(resting);
}

/// The processor time of all sessions so far, in microseconds.
async fn server_time(direct: &PgPool) -> f64 {
    let pids = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let pids: Vec<i32> = sqlx::query_scalar(pids).fetch_all(direct).await.unwrap();
    let nanos = pids.iter().map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    });
    nanos.sum::<f64>() / 1e3
}

/// Runs so many calls of so many clients, and tells what each has cost: round trips, which are commits, and the server's time.
async fn measure(schema: Schema, proxy: Arc<Proxy>, clients: u64, calls: u64) -> (f64, f64) {
    let direct = schema.pool(1);
    let store = PostgresStore::from_pool(quiet(&schema, proxy.port(), 16))
        .await
        .unwrap();
    let idem = Idempotency::builder(store).build();
    let run = async |calls: u64, round: &str| {
        let tasks = (0..clients).map(|client| {
            let (idem, round) = (idem.clone(), round.to_owned());
            tokio::spawn(async move {
                for call in 0..calls {
                    let key = id(&format!("{round}-{client}-{call}"));
                    let _ = idem.run(key, |_| async { 1 }).await.unwrap();
                }
            })
        });
        try_join_all(tasks).await.unwrap();
    };
    run(20, "warm").await;
    let (trips, time) = (proxy.round_trips(), server_time(&direct).await);
    run(calls, "counted").await;
    let (trips, time) = (proxy.round_trips() - trips, server_time(&direct).await - time);
    let all = clients * calls;
    (trips as f64 / all as f64, time / all as f64)
}

/// A runtime of one thread has each step go alone.
#[test]
#[ignore = "it is for people"]
fn what_a_call_costs_alone_and_among_others() {
    use tokio::runtime::Builder;

    let server = Server::start("");
    let around = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for (clients, calls) in [(1, 1_000), (16, 200), (64, 100)] {
        for (way, mut runtime) in [
            ("alone", Builder::new_current_thread()),
            ("together", Builder::new_multi_thread()),
        ] {
            let (schema, proxy) =
                around.block_on(async { (server.schema().await, Arc::new(Proxy::before(server.port()).await)) });
            let runtime = runtime.enable_all().build().unwrap();
            let (trips, time) = runtime.block_on(measure(schema, proxy, clients, calls));
            println!("{clients} clients, {way}: {trips:.2} round trips and {time:.0} µs of the server's time a call");
        }
    }
}
