//! Waiting across processes on PostgreSQL: by notification, with polling as the fallback, and without a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::idempotency::{ErrorKind, Idempotency, Origin, Recovery, Rollback};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Store, Watch};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgPool;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

#[path = "../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../tests/common/proxy.rs"]
mod proxy;

use postgres::{Server, server};
use proxy::{Cut, Proxy};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A store as a process of its own would have it.
async fn process(pool: PgPool) -> PostgresStore {
    PostgresStore::from_pool(pool).await.unwrap()
}

/// A watch of this key, once it hears.
async fn watched(store: &PostgresStore, key: &str) -> Watch {
    let hears = async {
        loop {
            let watch = store.watch(&id(key)).await;
            if !watch.is_none() {
                return watch;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let hears = tokio::time::timeout(Duration::from_secs(20), hears).await;
    hears.expect("it does not listen")
}

/// How a holder ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Completes,
    Commits,
    RollsBack,
    Panics,
}

/// How long after the end of a holder in one process a waiter in another one knows.
async fn woken_after(one: &PostgresStore, two: &PostgresStore, key: &str, end: End) -> Duration {
    let build = |store: &PostgresStore| {
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
            let outside = matches!(end, End::Completes | End::Panics);
            if outside {
                let work = holder.run(id, move |_| async move {
                    enters.send(()).unwrap();
                    left.notified().await;
                    assert!(matches!(end, End::Completes), "on purpose");
                    1
                });
                work.await.map(drop)
            } else {
                let work = holder.run_in_tx(id, move |_| async move {
                    enters.send(()).unwrap();
                    left.notified().await;
                    match end {
                        End::Commits => Ok(1),
                        _ => Err(Rollback::failed("on purpose")),
                    }
                });
                work.await.map(drop)
            }
        }
    });
    entered.await.unwrap();
    let waiting = tokio::spawn({
        let id = id(key);
        async move {
            let reply = match end {
                End::Completes | End::Panics => waiter.run(id, |_| async { 2 }).await,
                _ => waiter.run_in_tx(id, |_| async { Ok(2) }).await,
            };
            let reply = reply.unwrap();
            (*reply, reply.origin(), Instant::now())
        }
    });
    // Long enough that it is subscribed and the pauses between its questions are long.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let ended = Instant::now();
    leave.notify_one();
    let (value, source, woken) = waiting.await.unwrap();
    let _ = holding.await.unwrap();
    match end {
        End::Completes | End::Commits => assert_eq!((value, source), (1, Origin::Replayed)),
        End::RollsBack | End::Panics => assert_eq!((value, source), (2, Origin::Executed)),
    }
    woken - ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_in_another_process_is_woken_by_notification() {
    let schema = server().schema().await;
    let (one, two) = (process(schema.pool(4)).await, process(schema.pool(4)).await);
    for end in [End::Completes, End::Commits, End::RollsBack, End::Panics] {
        let mut took = Vec::new();
        for round in 0..5 {
            took.push(woken_after(&one, &two, &format!("{end:?}-{round}"), end).await);
        }
        took.sort();
        println!("{end:?}: {took:?}");
        // Without a notification, the next question would come between a half and a whole second after the last one:
        // 350 ms on the average, since 400 ms of it are over. The machine may be busy; so the median counts.
        assert!(took[2] < Duration::from_millis(100), "{end:?}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notifies_unless_somebody_waits() {
    // Nothing else waits on this one.
    let server = Server::start("-c fsync=off");
    let schema = server.schema().await;
    let store = process(schema.pool(1)).await;
    let mut ear = sqlx::postgres::PgListener::connect_with(&schema.pool(1)).await.unwrap();
    let channel: String = {
        // The channel is named in the statement, and so in what the server has prepared: the record of a large result is.
        let idem = Idempotency::builder(store.clone()).build();
        let large = "x".repeat(64 * 1024);
        let _ = idem.run_in_tx(id("first"), |_| async { Ok(large) }).await.unwrap();
        let statements: Vec<String> = sqlx::query_scalar("SELECT statement FROM pg_prepared_statements")
            .fetch_all(store.pool())
            .await
            .unwrap();
        let named = statements.iter().find_map(|it| it.split("pg_notify('").nth(1)).unwrap();
        named.split('\'').next().unwrap().to_owned()
    };
    ear.listen(&channel).await.unwrap();
    let idem = Idempotency::builder(store.clone()).build();
    let _ = idem.run(id("alone"), |_| async { 1 }).await.unwrap();
    let _ = idem.run_in_tx(id("alone-too"), |_| async { Ok(1) }).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_millis(300), ear.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    // With a watch, the same is heard, after what the listener told itself.
    let mut watch = watched(&store, "watched").await;
    let _ = idem.run_in_tx(id("watched"), |_| async { Ok(1) }).await.unwrap();
    let told = async { while ear.recv().await.unwrap().payload().parse::<i64>().is_err() {} };
    tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    watch.changed().await;
    // Its sign is taken down when it goes.
    drop(watch);
    let signs = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    while sqlx::query_scalar::<_, i64>(signs)
        .fetch_one(store.pool())
        .await
        .unwrap()
        > 0
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_ear_is_cut_off_waiting_goes_on_and_comes_back() {
    let schema = server().schema().await;
    let one = process(schema.pool(4)).await;
    let proxy = Proxy::before(server().port()).await;
    let two = process(schema.pool_through(proxy.port(), 4)).await;
    woken_after(&one, &two, "warm", End::Commits).await;
    let mut watch = two.watch(&id("cut")).await;
    assert!(!watch.is_none());
    proxy.cut_all();
    tokio::time::timeout(Duration::from_secs(5), watch.changed())
        .await
        .unwrap();
    assert!(watch.is_none(), "the source fell silent, and the watch does not know");
    let took = woken_after(&one, &two, "after", End::Commits).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let _again = watched(&two, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ear_that_hears_nothing_since_its_connection_is_dead_is_noticed() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let store = process(schema.pool_through(proxy.port(), 4)).await;
    let mut watch = watched(&store, "watched").await;
    proxy.cut("", Cut::Swallowed);
    // It asks after some silence, and waits for the answer for some time.
    tokio::time::timeout(Duration::from_secs(40), watch.changed())
        .await
        .unwrap();
    assert!(watch.is_none(), "the source fell silent, and the watch does not know");
    let _again = watched(&store, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ear_connects_with_the_options_that_the_pool_has_by_then() {
    let schema = server().schema().await;
    let old = Proxy::before(server().port()).await;
    let pool = schema.pool_through(old.port(), 4);
    let store = process(pool.clone()).await;
    let mut watch = watched(&store, "before").await;
    // As when a password was changed: the old way is closed.
    pool.set_connect_options(schema.options.clone());
    drop(old);
    tokio::time::timeout(Duration::from_secs(5), watch.changed())
        .await
        .unwrap();
    assert!(watch.is_none(), "the source fell silent, and the watch does not know");
    let _after = watched(&store, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_wait_the_server_s_table_of_locks_has_room() {
    const PROCESSES: usize = 30;
    const KEYS: usize = 100;
    const PLACES: i64 = 10;
    let settings = format!("-c fsync=off -c max_connections=80 -c max_locks_per_transaction={PLACES}");
    let server = Server::start(&settings);
    let schema = server.schema().await;
    let others = schema.pool(1);
    let mut processes = JoinSet::new();
    for number in 0..PROCESSES {
        let pool = schema.pool(1);
        processes.spawn(async move {
            let store = process(pool).await;
            let mut watches = vec![watched(&store, &format!("{number}")).await];
            for key in 0..KEYS {
                let watch = store.watch(&id(&format!("{number}-{key}"))).await;
                watches.extend((!watch.is_none()).then_some(watch));
            }
            (store, watches)
        });
    }
    let processes = processes.join_all().await;
    let most: i64 = sqlx::query_scalar(
        "SELECT max(locks) FROM (
            SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' GROUP BY pid) AS process",
    )
    .fetch_one(&others)
    .await
    .unwrap();
    // Half of what the listening connection adds to the table.
    assert_eq!(most, PLACES / 2);
    for (_, watches) in &processes {
        assert_eq!(i64::try_from(watches.len()).unwrap(), most);
    }
    // A transaction of another client gets more than its own share.
    let tables = "DO $$ BEGIN FOR n IN 1..200 LOOP EXECUTE 'CREATE TABLE other_' || n || ' ()'; END LOOP; END $$";
    sqlx::raw_sql(tables).execute(&others).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_s_deadline_holds() {
    let schema = server().schema().await;
    let (one, two) = (process(schema.pool(4)).await, process(schema.pool(4)).await);
    let holder = Idempotency::builder(one).build();
    let (enters, entered) = oneshot::channel();
    let (_leave, left) = oneshot::channel::<()>();
    let holding = tokio::spawn(async move {
        let held = holder.run_in_tx(id("held"), |_| async move {
            enters.send(()).unwrap();
            left.await?;
            Ok(1)
        });
        held.await.map(drop)
    });
    entered.await.unwrap();
    let waiter = Idempotency::builder(two).wait(Duration::from_millis(700)).build();
    let begun = Instant::now();
    let waited = waiter.run_in_tx(id("held"), |_| async { Ok(2) }).await.unwrap_err();
    assert!(matches!(waited.kind(), ErrorKind::InProgress { .. }), "{waited:?}");
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(700)..Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
    holding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_duplicates_in_each_of_four_processes_starve_nobody() {
    const PROCESSES: usize = 4;
    const DUPLICATES: usize = 500;
    const OTHERS: usize = 50;
    let schema = server().schema().await;
    let direct = schema.pool(2);
    sqlx::raw_sql("CREATE TABLE orders (key text NOT NULL)")
        .execute(&direct)
        .await
        .unwrap();
    let executions = Arc::new(AtomicUsize::new(0));
    let work_time = Duration::from_secs(2);
    let mut calls = JoinSet::new();
    let mut others = JoinSet::new();
    for process_number in 0..PROCESSES {
        let store = process(schema.pool(5)).await;
        let idem = Idempotency::builder(store).wait(Duration::from_secs(30)).build();
        for _ in 0..DUPLICATES {
            let (idem, executions) = (idem.clone(), Arc::clone(&executions));
            calls.spawn(async move {
                let work = idem.run_in_tx(id("hot"), move |mut tx| async move {
                    executions.fetch_add(1, SeqCst);
                    sqlx::query("INSERT INTO orders VALUES ('hot')")
                        .execute(&mut *tx)
                        .await?;
                    tokio::time::sleep(work_time).await;
                    Ok(1)
                });
                work.await.map(|reply| *reply)
            });
        }
        others.spawn(async move {
            // The duplicates are under way by then.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut slowest = Duration::ZERO;
            for number in 0..OTHERS {
                let begun = Instant::now();
                let work = idem.run_in_tx(id(&format!("other-{process_number}-{number}")), |mut tx| async move {
                    sqlx::query("INSERT INTO orders VALUES ('other')")
                        .execute(&mut *tx)
                        .await?;
                    Ok(1)
                });
                let _ = work.await.unwrap();
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
    }
    let begun = Instant::now();
    while let Some(slowest) = others.join_next().await {
        let slowest = slowest.unwrap();
        println!("other keys: the slowest of {OTHERS} took {slowest:?}");
        assert!(
            slowest < Duration::from_secs(1),
            "another key was held up for {slowest:?}"
        );
    }
    assert!(
        begun.elapsed() < work_time,
        "other keys were done only after the hot one: {:?}",
        begun.elapsed()
    );
    let mut answered = 0;
    while let Some(reply) = calls.join_next().await {
        assert_eq!(reply.unwrap().unwrap(), 1);
        answered += 1;
    }
    println!("{answered} duplicates answered {:?} after the first", begun.elapsed());
    assert_eq!((answered, executions.load(SeqCst)), (PROCESSES * DUPLICATES, 1));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE key = 'hot'")
        .fetch_one(&direct)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}
