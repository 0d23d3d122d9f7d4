//! Promise 14 on PostgreSQL: a commit whose answer never arrives is looked up, not repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Origin, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Store, StoreError};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::oneshot;

use crate::postgres::{Schema, Server, server};
use crate::proxy::{Cut, Proxy};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A shop behind a proxy, and a pool that does not go through it.
async fn shop(server: &Server, patience: Duration) -> (Proxy, Idempotency<PostgresStore>, PgPool, Schema) {
    let schema = server.schema().await;
    let direct = schema.pool(2);
    sqlx::query("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text)")
        .execute(&direct)
        .await
        .unwrap();
    let proxy = Proxy::before(server.port()).await;
    let store = PostgresStore::options()
        .patience(patience)
        .from_pool(schema.pool_through(proxy.port(), 4))
        .await
        .unwrap();
    (proxy, Idempotency::builder(store).build(), direct, schema)
}

async fn order(idem: &Idempotency<PostgresStore>, key: &str) -> Result<(i64, Origin), Error> {
    let bound = key.to_owned();
    let work = idem.run_in_tx(id(key), move |mut tx| {
        let key = bound.clone();
        async move {
            let insert = "INSERT INTO orders (key) VALUES ($1) RETURNING id";
            Ok(sqlx::query_scalar::<_, i64>(insert)
                .bind(key)
                .fetch_one(&mut *tx)
                .await?)
        }
    });
    work.await.map(|reply| (*reply, reply.origin()))
}

async fn orders(pool: &PgPool, key: &str) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM orders WHERE key = $1").bind(key);
    count.fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrived_is_a_reply_although_its_answer_was_lost() {
    let (proxy, idem, direct, _) = shop(server(), Duration::from_secs(10)).await;
    for (key, cut) in [("after", Cut::After), ("after-answer", Cut::AfterAnswer)] {
        proxy.cut("COMMIT", cut);
        let (number, source) = order(&idem, key).await.unwrap();
        assert_eq!(source, Origin::Executed);
        assert_eq!(orders(&direct, key).await, 1);
        assert_eq!(order(&idem, key).await.unwrap(), (number, Origin::Replayed));
    }
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_rolled_back_and_the_key_is_free() {
    let (proxy, idem, direct, _) = shop(server(), Duration::from_secs(10)).await;
    proxy.cut("COMMIT", Cut::Before);
    let error = order(&idem, "before").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    assert_eq!(orders(&direct, "before").await, 0);
    assert_eq!(order(&idem, "before").await.unwrap().1, Origin::Executed);
    assert_eq!(orders(&direct, "before").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_nobody_answers_is_asked_about_within_its_patience() {
    let (proxy, idem, direct, _) = shop(server(), Duration::from_millis(500)).await;
    proxy.cut("COMMIT", Cut::Swallowed);
    let begun = Instant::now();
    let error = order(&idem, "swallowed").await.unwrap_err();
    // Our end of the connection is closed, and then the server's: nothing was committed.
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(orders(&direct, "swallowed").await, 0);
    // One that is merely late: its session is ended before it can commit what was given up.
    proxy.cut("COMMIT", Cut::Delay(Duration::from_secs(3)));
    let error = order(&idem, "late").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(orders(&direct, "late").await, 0);
    assert_eq!(order(&idem, "late").await.unwrap().1, Origin::Executed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_nobody_answers_is_given_up_with_its_connection() {
    let (proxy, idem, direct, _) = shop(server(), Duration::from_secs(1)).await;
    order(&idem, "warm").await.unwrap();
    // The beginning; the look, seen by its parameters; and the record, by the digits in its text.
    for (cuts, (bytes, key)) in [
        ("oneflight_work", "seen-0"),
        ("seen-1", "seen-1"),
        ("7365656e2d32", "seen-2"),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.cut(bytes, Cut::Swallowed);
        let begun = Instant::now();
        let error = order(&idem, key).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Nothing, "{key}: {error:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{key}: {:?}",
            begun.elapsed()
        );
        assert_eq!(proxy.cuts(), cuts + 1, "{key}");
        proxy.cut_all();
        assert_eq!(order(&idem, key).await.unwrap().1, Origin::Executed, "{key}");
        assert_eq!(orders(&direct, key).await, 1, "{key}");
    }
}

/// A call that its caller gives up takes no connection along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_before_it_is_answered_keeps_no_place_in_the_pool() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 1);
    let options = PostgresStore::options().patience(Duration::from_secs(60));
    let store = options.from_pool(pool).await.unwrap();
    for (key, cuts) in [("one", 1), ("two", 2)] {
        proxy.cut(key, Cut::Swallowed);
        let request = id(key);
        tokio::select! {
            load = store.load(&request) => panic!("{load:?}"),
            () = proxy.has_cut(cuts) => {}
        }
        let load = tokio::time::timeout(Duration::from_secs(10), store.load(&id("another"))).await;
        assert!(matches!(load, Ok(Ok(None))), "{load:?}");
    }
    assert_eq!(proxy.cuts(), 2);
}

/// So that the server does not keep what was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_has_the_server_look_whether_its_client_is_there() {
    let (_proxy, idem, _direct, _schema) = shop(server(), Duration::from_secs(6)).await;
    let seconds = |setting: &'static str| {
        idem.run_in_tx(id(setting), move |mut tx| async move {
            let show = sqlx::query_scalar::<_, String>("SELECT current_setting($1)");
            Ok(show.bind(setting).fetch_one(&mut *tx).await?)
        })
    };
    assert_eq!(*seconds("tcp_keepalives_idle").await.unwrap(), "6");
    assert_eq!(*seconds("tcp_keepalives_interval").await.unwrap(), "2");
    assert_eq!(*seconds("tcp_keepalives_count").await.unwrap(), "3");
    // Afterwards it is as it was.
    let show = sqlx::query_scalar::<_, String>("SELECT current_setting('tcp_keepalives_idle')");
    let seconds: u64 = show.fetch_one(idem.store().pool()).await.unwrap().parse().unwrap();
    assert!(seconds > 60, "{seconds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_nobody_answers_is_asked_for_over_another_connection() {
    let (proxy, idem, ..) = shop(server(), Duration::from_secs(1)).await;
    let run = |key: &'static str, value| idem.run(id(key), move |_| async move { value });
    // The claim, and the completion.
    for (skipped, key) in [(0, "claim"), (1, "completion")] {
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

/// That the next question found no connection says nothing of the one before, whose answer was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_may_have_been_taken_is_not_forgotten_over_a_later_error() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let options = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(1));
    let pool = options.connect_lazy_with(schema.options.clone().port(proxy.port()));
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let direct = schema.pool(2);
    let outside = PostgresStore::from_pool(direct.clone()).await.unwrap();
    let idem = Idempotency::builder(store).lease(Duration::from_secs(1)).build();
    for (key, kept) in [
        ("for good", Duration::from_secs(60)),
        ("for a moment", Duration::from_millis(1_400)),
    ] {
        let mut locked = direct.begin().await.unwrap();
        let lock = "LOCK TABLE oneflight_records IN SHARE ROW EXCLUSIVE MODE";
        sqlx::query(lock).execute(&mut *locked).await.unwrap();
        proxy.cut(key.replace(' ', "-"), Cut::AfterAnswer);
        let request = id(&key.replace(' ', "-"));
        let call = tokio::spawn({
            let (idem, request) = (idem.clone(), request.clone());
            async move { idem.run(request, |_| async { 1 }).await }
        });
        // Until the only connection is waited for, the server does not answer.
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CALL %_claim%'";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&direct).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut other = std::pin::pin!(pool.acquire());
        assert!(futures::poll!(other.as_mut()).is_pending());
        locked.rollback().await.unwrap();
        let other = other.await.unwrap();
        let keeper = tokio::spawn(async move {
            tokio::time::sleep(kept).await;
            drop(other);
        });
        let error = call.await.unwrap().unwrap_err();
        keeper.abort();
        assert_eq!(proxy.cuts(), if key == "for good" { 1 } else { 2 });
        let left = outside.load(&request).await.unwrap();
        // Either it was taken back, or the caller knows that it may not have been.
        match error.effect() {
            Effect::Nothing => assert_eq!(left, None, "{key}: {error:?}"),
            effect => assert_eq!(effect, Effect::Unknown, "{key}: {error:?}"),
        }
        assert!(
            matches!(error.kind(), ErrorKind::Store(source) if matches!(source, StoreError::Unavailable { .. })),
            "{key}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_anywhere_else_did_nothing() {
    let (proxy, idem, direct, _) = shop(server(), Duration::from_secs(10)).await;
    order(&idem, "warm").await.unwrap();
    // The statements are prepared by now: what is seen of them are their parameters.
    for (at, bytes) in ["BEGIN", "oneflight_work", "cut-2", "cut-3"].into_iter().enumerate() {
        for cut in [Cut::Before, Cut::After, Cut::AfterAnswer] {
            let key = &format!("cut-{at}-{cut:?}");
            proxy.cut(bytes, cut);
            match order(&idem, key).await {
                Ok((_, source)) => assert_eq!(source, Origin::Executed),
                Err(error) => {
                    assert_ne!(error.effect(), Effect::Done, "{key}: {error:?}");
                    assert_eq!(orders(&direct, key).await, 0, "{key}: {error:?}");
                    // Until the server notices, it is in progress.
                    assert_eq!(order(&idem, key).await.unwrap().1, Origin::Executed, "{key}: {error:?}");
                }
            }
            assert_eq!(orders(&direct, key).await, 1, "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_in_the_commit_is_asked_when_it_is_back() {
    // Restarted, so not shared; and it writes to the disk what it says it did.
    let server = Arc::new(Server::start(""));
    let (proxy, idem, direct, _) = shop(&server, Duration::from_secs(30)).await;
    order(&idem, "warm").await.unwrap();
    for (key, cut) in [
        ("crash-before", Cut::Before),
        ("crash-after", Cut::After),
        ("crash-answer", Cut::AfterAnswer),
    ] {
        proxy.cut("COMMIT", cut);
        let restart = tokio::task::spawn_blocking({
            let server = Arc::clone(&server);
            move || server.restart("immediate")
        });
        let answer = order(&idem, key).await;
        restart.await.unwrap();
        proxy.disarm();
        let kept = orders(&direct, key).await;
        match answer {
            Ok((_, source)) => assert_eq!((source, kept), (Origin::Executed, 1), "{key}"),
            Err(error) if error.effect() == Effect::Nothing => assert_eq!(kept, 0, "{key}: {error:?}"),
            Err(error) => println!("{key}: not known ({error}), kept {kept}"),
        }
        assert_eq!(
            order(&idem, key).await.map(|_| ()).map_err(|error| error.to_string()),
            Ok(())
        );
        assert_eq!(orders(&direct, key).await, 1, "{key}");
    }
}

async fn one<T>(pool: &PgPool, select: &'static str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    // A pool may lend connections that are gone.
    for _ in 0..16 {
        if let Ok(found) = sqlx::query_scalar(select).fetch_one(pool).await {
            return found;
        }
    }
    panic!("the server does not answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_a_crash_gave_out_again_tells_nothing_of_the_work_before() {
    const GIVE_OUT: &str = "SELECT pg_current_xact_id()::text::bigint";
    // What nobody waits for comes to the disk after ten seconds.
    let own = Arc::new(Server::start("-c wal_writer_delay=10s"));
    let (_proxy, idem, direct, _) = shop(&own, Duration::from_secs(10)).await;
    order(&idem, "warm").await.unwrap();
    let mut given_out_again = 0;
    for round in 0..8 {
        let key = format!("order-{round}");
        let (tell, told) = oneshot::channel();
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let mut once = Some((tell, may_go_on));
        let (again, of) = (idem.clone(), id(&key));
        let work = move |mut tx: Tx<PostgresStore>| {
            let once = once.take();
            async move {
                let number = "SELECT pg_current_xact_id_if_assigned()::text::bigint";
                let number: i64 = sqlx::query_scalar(number).fetch_one(&mut *tx).await?;
                if let Some((tell, may_go_on)) = once {
                    let _ = tell.send(number);
                    let _ = may_go_on.await;
                }
                Ok(1)
            }
        };
        let call = tokio::spawn(async move { again.run_in_tx(of, work).await.map(|reply| *reply) });
        let number = told.await.unwrap();
        tokio::task::block_in_place(|| own.restart("immediate"));
        let mut newest = one::<i64>(&direct, GIVE_OUT).await;
        given_out_again += usize::from(newest <= number);
        while newest < number {
            newest = one(&direct, GIVE_OUT).await;
        }
        go_on.send(()).unwrap();
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
        assert_eq!(error.effect(), Effect::Nothing);
        // It is free, and the next crash will be noticed as well.
        assert_eq!(order(&idem, &key).await.unwrap().1, Origin::Executed);
        assert_eq!(
            one::<i64>(&direct, "SELECT count(*) FROM oneflight_incarnation").await,
            1
        );
        if given_out_again == 2 {
            return;
        }
    }
    panic!("no crash gave a number out again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_noticed_where_transactions_only_read_unless_told_otherwise() {
    const LIFE: &str = "SELECT id::text FROM oneflight_incarnation";
    let own = Server::start("");
    let mut schema = own.schema().await;
    let direct = schema.pool(2);
    PostgresStore::from_pool(direct.clone()).await.unwrap();
    schema.options = schema.options.options([
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
    ]);
    let store = PostgresStore::from_pool(schema.pool(2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let nothing = |key: &str| idem.run_in_tx(id(key), |_| async { Ok(1) });
    assert_eq!(*nothing("before").await.unwrap(), 1);
    let before: String = one(&direct, LIFE).await;
    tokio::task::block_in_place(|| own.restart("immediate"));
    assert_eq!(*nothing("after").await.unwrap(), 1);
    let after: String = one(&direct, LIFE).await;
    assert_ne!(before, after);
    assert_eq!(*nothing("later").await.unwrap(), 1);
    assert_eq!(one::<String>(&direct, LIFE).await, after);
}
