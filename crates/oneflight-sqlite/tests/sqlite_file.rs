//! One file for the life of a store, or a clear error; and what can be opened at all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../tests/common/lines.rs"]
mod lines;

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lines::Lines;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimRequest, Store, StoreError};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqliteConnection};
use tracing::Instrument;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// An error and all its causes.
fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// The working directory is the process's: so this is one test, and the others name their files in full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_directory_leads_to_no_second_file() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    for directory in [&first, &second] {
        std::fs::create_dir(directory).unwrap();
    }
    std::env::set_current_dir(&first).unwrap();
    let opened = SqliteStore::open("opened.db").await.unwrap();
    // Room for one more than ten calls may have at a time.
    let lent = SqlitePoolOptions::new()
        .max_connections(20)
        .connect_with(
            SqliteConnectOptions::new()
                .filename("lent.db")
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal),
        )
        .await
        .unwrap();
    let lent = SqliteStore::from_pool(lent).await.unwrap();
    let done = Idempotency::builder(lent.clone()).build();
    assert_eq!(*done.run(id("done before"), |_| async { 1 }).await.unwrap(), 1);
    std::env::set_current_dir(&second).unwrap();
    // A database that is initialised, so that nothing fails for want of a table.
    drop(SqliteStore::open("lent.db").await.unwrap());

    let idem = Idempotency::builder(opened).build();
    let replies = join_all((0..30).map(|n| {
        let idem = idem.clone();
        async move {
            idem.run(id(&format!("{}", n % 10)), move |_| async move { n % 10 })
                .await
        }
    }));
    for (n, reply) in replies.await.into_iter().enumerate() {
        assert_eq!(*reply.unwrap(), n % 10);
    }
    assert!(!second.join("opened.db").exists());

    // A pool of the user's opens what its options say. Its connections to another file are told.
    let mut refused = 0;
    let reads = join_all((0..10).map(|_| done.run(id("done before"), |_| async { 2 }))).await;
    let mut connections = Vec::new();
    // While one is on its way back, another one would be made.
    while lent.pool().num_idle() < lent.pool().size() as usize {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All that there are, so that the next one is made from here.
    while connections.len() < lent.pool().size() as usize {
        connections.push(lent.pool().acquire().await.unwrap());
    }
    let request = id("elsewhere");
    let claim = lent.claim(ClaimRequest::new(&request, Duration::from_secs(9))).await;
    let load = lent.load(&id("done before")).await;
    drop(connections);
    for read in reads {
        match read {
            Ok(reply) => assert_eq!((*reply, reply.origin()), (1, Origin::Replayed)),
            Err(error) => {
                assert!(told(&error).contains("lent.db"), "{}", told(&error));
                refused += 1;
            }
        }
    }
    println!("{refused} of 10 reads were refused");
    for error in [claim.unwrap_err(), load.unwrap_err()] {
        let text = told(&error);
        assert!(text.contains("first") && text.contains("second"), "{text}");
    }
    let stray: i64 = sqlx::query_scalar("SELECT count(*) FROM oneflight_records")
        .fetch_one(&mut SqliteConnection::connect("sqlite:lent.db").await.unwrap())
        .await
        .unwrap();
    assert_eq!(stray, 0, "written into another file");
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_is_an_error_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    for lent in [false, true] {
        let path = folder.path().join(format!("{lent}.db"));
        let store = match lent {
            false => SqliteStore::open(&path).await.unwrap(),
            true => {
                let options = SqliteConnectOptions::new()
                    .filename(&path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal);
                SqliteStore::from_pool(SqlitePoolOptions::new().connect_with(options).await.unwrap())
                    .await
                    .unwrap()
            }
        };
        let idem = Idempotency::builder(store.clone()).build();
        assert_eq!(*idem.run(id("before"), |_| async { 1 }).await.unwrap(), 1);
        let aside = folder.path().join("aside.db");
        std::fs::rename(&path, &aside).unwrap();
        for replaced in [false, true] {
            if replaced {
                std::fs::copy(&aside, &path).unwrap();
            }
            let error = idem.run(id("new"), |_| async { 2 }).await.unwrap_err();
            assert!(told(&error).contains(path.to_str().unwrap()), "{}", told(&error));
            let error = idem.run_in_tx(id("new"), |_| async { Ok(2) }).await.unwrap_err();
            assert!(told(&error).contains(path.to_str().unwrap()), "{}", told(&error));
            assert!(store.load(&id("before")).await.is_err());
            assert!(store.purge(1).await.is_err());
        }
        std::fs::rename(&aside, &path).unwrap();
        let reply = idem.run(id("before"), |_| async { 2 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
        assert_eq!(*idem.run(id("new"), |_| async { 2 }).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_named_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "a text and not a database, long enough to be looked at".repeat(50),
    )
    .unwrap();
    for (path, cause) in [
        (folder.path().to_path_buf(), "unable to open"),
        (folder.path().join("missing").join("file.db"), "unable to open"),
        (text, "not a database"),
    ] {
        let error = SqliteStore::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains(cause), "{text}");
        // What the message has is not told again.
        let source = error.source().unwrap();
        assert!(source.is::<sqlx::Error>(), "{source:?}");
    }
}

#[tokio::test]
async fn a_failure_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("failing.db");
    let store = SqliteStore::open(&path).await.unwrap();
    sqlx::query("DROP TABLE oneflight_records")
        .execute(store.pool())
        .await
        .unwrap();
    let error = store.load(&id("any")).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("no such table"),
        "{text}"
    );
}

#[tokio::test]
async fn a_url_is_not_taken_for_a_path() {
    for url in [
        "sqlite::memory:",
        "sqlite:one.db",
        "sqlite://two.db?mode=rwc",
        "file:three.db",
        "file::memory:?cache=shared",
        ":memory:",
        "",
    ] {
        let error = SqliteStore::open(url).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }), "{url}: {error:?}");
        assert!(url.is_empty() || !std::path::Path::new(url).exists(), "{url}");
    }
    // A file of such a name is opened by a path.
    let folder = tempfile::tempdir().unwrap();
    SqliteStore::open(folder.path().join("sqlite:four.db")).await.unwrap();
    assert!(folder.path().join("sqlite:four.db").exists());
}

#[tokio::test]
async fn a_database_in_memory_has_one_connection() {
    for options in [
        SqliteConnectOptions::new().in_memory(true),
        "sqlite::memory:".parse().unwrap(),
    ] {
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .connect_lazy_with(options.clone())
        };
        let error = SqliteStore::from_pool(pool(2)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
        let store = SqliteStore::from_pool(pool(1)).await.unwrap();
        let idem = Idempotency::builder(store).build();
        assert_eq!(*idem.run(id("in memory"), |_| async { 1 }).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_database_that_cannot_roll_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("off.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Off);
    let pool = SqlitePoolOptions::new().connect_lazy_with(options);
    let error = SqliteStore::from_pool(pool).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
}

/// A deploy is not held up by a long transaction of the process that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_up_to_date_is_opened_while_somebody_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut writer = store.pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *writer).await.unwrap();
    let options = || SqliteStore::options().busy_deadline(Duration::from_secs(20));
    let opening = Instant::now();
    let opened = options().open(&path).await.unwrap();
    let pool = SqlitePoolOptions::new().connect_with(SqliteConnectOptions::new().filename(&path));
    let lent = options().from_pool(pool.await.unwrap()).await.unwrap();
    assert!(opening.elapsed() < Duration::from_secs(10), "{:?}", opening.elapsed());
    sqlx::raw_sql("COMMIT").execute(&mut *writer).await.unwrap();
    for (store, key) in [(opened, "opened"), (lent, "lent")] {
        let idem = Idempotency::builder(store).build();
        assert_eq!(*idem.run(id(key), |_| async { 1 }).await.unwrap(), 1);
    }
}

/// The subscriber is the process's: of a statement, the thread of its connection tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_before_the_work_is_one_errand_and_all_after_it_another() {
    const INSERT: &str = "INSERT INTO orders (item) VALUES ('tea')";
    let lines = Lines::default();
    tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let own = SqliteStore::open(folder.path().join("own.db")).await.unwrap();
    // One always lies idle, and is had at once: the last one may still be on its way back, and a guess waits for none.
    let pool = SqlitePoolOptions::new()
        .min_connections(20)
        .max_connections(20)
        .test_before_acquire(false)
        .connect_with(
            SqliteConnectOptions::new()
                .filename(folder.path().join("theirs.db"))
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal),
        )
        .await
        .unwrap();
    let theirs = SqliteStore::from_pool(pool).await.unwrap();
    for (whose, store) in [("own", own), ("theirs", theirs)] {
        sqlx::raw_sql("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)")
            .execute(store.pool())
            .await
            .unwrap();
        let idem = Idempotency::builder(store).build();
        // What begins a transaction is not told of. So there are a look, the work, and what ends it. After eight new
        // ones in a row, the look goes out with what begins the transaction.
        let all = [
            "BEGIN; SELECT fingerprint, token",
            "INSERT INTO orders",
            "RELEASE oneflight_work;",
        ];
        // Each connection comes again.
        for round in 0..50 {
            let expected = if round < 8 { &all[..] } else { &all[1..] };
            let counted = format!("{whose}-{round}");
            let call = idem.run_in_tx(id(&counted), |mut tx| async move {
                sqlx::query(INSERT).execute(&mut *tx).await?;
                Ok(1)
            });
            let reply = call.instrument(tracing::info_span!("counting", counted)).await.unwrap();
            assert_eq!(reply.origin(), Origin::Executed);
            let told = lines.with(&format!("counted=\"{counted}\""));
            let is_errand = |line: &&String| line.contains("sqlx::query") && !line.contains("PRAGMA foreign_keys");
            let statements: Vec<_> = told.iter().filter(is_errand).collect();
            assert_eq!(statements.len(), expected.len(), "{counted}: {statements:#?}");
            for (statement, expected) in statements.iter().zip(expected) {
                assert!(statement.contains(expected), "{counted}: {statement}");
            }
        }
        // A claim and a result are one errand each, on a pool of the user's too.
        let expected = [
            "BEGIN; SELECT fingerprint, token",
            "BEGIN IMMEDIATE; INSERT INTO",
            "UPDATE main.oneflight_records SET state",
        ];
        for round in 0..3 {
            let counted = format!("{whose}-run-{round}");
            let call = idem.run(id(&counted), |_| async { 1 });
            let reply = call.instrument(tracing::info_span!("counting", counted)).await.unwrap();
            assert_eq!(reply.origin(), Origin::Executed);
            let told = lines.with(&format!("counted=\"{counted}\""));
            // Those that set the connection come once, and again after each transaction of work on it.
            let is_errand = |line: &&String| line.contains("sqlx::query") && !line.contains("PRAGMA ");
            let statements: Vec<_> = told.iter().filter(is_errand).collect();
            assert_eq!(statements.len(), expected.len(), "{counted}: {statements:#?}");
            for (statement, expected) in statements.iter().zip(expected) {
                assert!(statement.contains(expected), "{counted}: {statement}");
            }
        }
        let replay = idem.run_in_tx(id(&format!("{whose}-0")), |_| async { Ok(2) });
        let replay = replay.instrument(tracing::info_span!("counting", counted = format!("{whose}-replay")));
        assert_eq!(replay.await.unwrap().origin(), Origin::Replayed);
        let told = lines.with(&format!("counted=\"{whose}-replay\""));
        let statements = told.iter().filter(|line| line.contains("sqlx::query")).count();
        assert_eq!(statements, 1, "{told:#?}");
    }
}
