//! What claims and completions that go out together cost the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use oneflight::idempotency::Idempotency;
use oneflight::store::Store;
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Executor};

use crate::postgres::{Schema, Server, server};
use crate::proxy::Proxy;
use crate::together::{CALLERS, FEW, HOUR, claim, granted, id, in_time, quiet, result, transactions, watched};

/// Every completion leaves an entry in that index behind, for as long as somebody's snapshot lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_read_their_own_entries_of_what_is_in_progress_and_no_others() {
    let schema = server().schema().await;
    let direct = schema.pool(1);
    let store = PostgresStore::from_pool(schema.pool(2)).await.unwrap();
    for part in 0..3 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{part}-{number}")).collect();
        let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let complete = |outcome| store.complete(granted(outcome), result(b"1"), HOUR);
        try_join_all(claims.into_iter().map(complete)).await.unwrap();
    }
    // A session that ends has told what it has read.
    store.pool().close().await;
    let read = async |index: &str| {
        let read = "SELECT coalesce(sum(idx_scan), 0)::bigint, coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
                    WHERE schemaname = current_schema() AND indexrelname = $1";
        let read = sqlx::query_as::<_, (i64, i64)>(read).bind(index.to_owned());
        read.fetch_one(&direct).await.unwrap()
    };
    in_time("the statistics", async {
        // Of each claim and each completion.
        while read("oneflight_records_pkey").await.0 + read("oneflight_records_in_progress").await.0 < 2 * 3 * 64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, entries) = read("oneflight_records_in_progress").await;
    // Each may look for its own token.
    assert!(entries <= 3 * 64, "{entries}");
}

/// What is notified of waits for others that notify, up to their commits; and these for the disk, or for a standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_that_wait_for_their_turn_to_notify_stay_together() {
    let server = Server::start("-c fsync=off -c synchronous_standby_names=none -c synchronous_commit=local");
    let schema = server.schema().await;
    let direct = schema.pool(1);
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let waits = async |what: &str| {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = $1";
        let waiting = async || {
            let waiting = sqlx::query_scalar::<_, i64>(waiting).bind(what.to_owned());
            waiting.fetch_one(&direct).await.unwrap()
        };
        in_time(what, async {
            while waiting().await == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    };
    let mut least = usize::MAX;
    // On a busy machine some go alone.
    for round in 0..5 {
        direct.execute("DELETE FROM oneflight_records").await.unwrap();
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let claims: Vec<_> = claims.into_iter().map(granted).collect();
        let mut watches = Vec::new();
        for claim in &claims[..20] {
            watches.push(watched(&store, claim.id()).await);
        }
        let mut notifies = sqlx::PgConnection::connect_with(&schema.options).await.unwrap();
        notifies.execute("SET synchronous_commit = on").await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut notifies)
            .await
            .unwrap();
        let notifies = tokio::spawn(async move {
            let written = format!("BEGIN; CREATE TABLE written_{round}(); NOTIFY others; COMMIT");
            let _ = sqlx::raw_sql(sqlx::AssertSqlSafe(written)).execute(&mut notifies).await;
        });
        waits("SyncRep").await;
        let complete = |claim| store.complete(claim, result(b"1"), HOUR);
        let lets_go = async {
            waits("object").await;
            // For longer than a statement waits for a lock.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let cancel = "SELECT pg_cancel_backend($1)";
            sqlx::query(cancel).bind(pid).execute(&direct).await.unwrap();
        };
        let (completed, ()) = futures::join!(try_join_all(claims.into_iter().map(complete)), lets_go);
        completed.unwrap();
        notifies.await.unwrap();
        assert!(!server.log().contains("lock timeout"), "{}", server.log());
        least = least.min(transactions(&direct).await);
    }
    assert!(least <= FEW, "{least}");
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

/// Where others keep the pool's connections, what goes together has a place in its queue for each message, and what goes alone one for each
/// caller.
#[test]
#[ignore = "it is for people"]
fn what_a_pool_that_others_keep_busy_costs_alone_and_among_others() {
    use tokio::runtime::Builder;
    use tokio::time::{Instant, sleep};

    let server = Server::start("");
    let around = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for (clients, bytes) in [(64, 10), (64, 4_000), (512, 10)] {
        for (way, mut runtime) in [
            ("alone", Builder::new_current_thread()),
            ("together", Builder::new_multi_thread()),
        ] {
            let schema = around.block_on(server.schema());
            let pool = around.block_on(async { schema.pool(16) });
            let runtime = runtime.enable_all().build().unwrap();
            let store = runtime.block_on(PostgresStore::from_pool(pool.clone())).unwrap();
            // Each of these has a connection for 20 ms, and waits for the next one.
            let others: Vec<_> = (0..48)
                .map(|_| {
                    let pool = pool.clone();
                    runtime.spawn(async move {
                        loop {
                            let kept = pool.acquire().await;
                            sleep(Duration::from_millis(20)).await;
                            drop(kept);
                        }
                    })
                })
                .collect();
            let (time, calls) = (Duration::from_secs(5), std::sync::atomic::AtomicUsize::new(0));
            runtime.block_on(async {
                let begun = Instant::now();
                let each = (0..clients).map(async |client| {
                    let mut call = 0;
                    while begun.elapsed() < time {
                        call += 1;
                        if let Ok(oneflight::store::ClaimOutcome::Granted(claim)) =
                            claim(&store, &format!("{client}-{call}")).await
                            && store.complete(claim, result(&vec![b'7'; bytes]), HOUR).await.is_ok()
                        {
                            calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                });
                join_all(each).await;
            });
            others.iter().for_each(tokio::task::JoinHandle::abort);
            let calls = calls.into_inner() as f64 / time.as_secs_f64();
            println!("{clients} clients, {bytes} bytes, {way}: {calls:.0} calls a second");
        }
    }
}
