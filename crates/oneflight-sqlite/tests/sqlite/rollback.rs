//! Promise 12, where it is hard to keep: the work ends the transaction, or has SQLite end it, and goes on. Nothing is
//! kept then, and that is what the caller is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::idempotency::{Effect, ErrorKind, Idempotency, Origin, Rollback};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::StoreError;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tempfile::TempDir;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// A store on its own file, and one on a pool of the user's.
async fn stores() -> (TempDir, [SqliteStore; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let own = SqliteStore::open(folder.path().join("own.db")).await.unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("theirs.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new()
        .max_connections(3)
        .connect_with(options)
        .await
        .unwrap();
    let theirs = SqliteStore::from_pool(pool).await.unwrap();
    for store in [&own, &theirs] {
        sqlx::raw_sql(
            "CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL);
             CREATE TABLE checked (n INTEGER);
             CREATE TRIGGER checks BEFORE INSERT ON checked BEGIN SELECT RAISE(ROLLBACK, 'not today'); END;",
        )
        .execute(store.pool())
        .await
        .unwrap();
    }
    (folder, [own, theirs])
}

async fn orders(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn insert(connection: &mut SqliteConnection, item: &str) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO orders (item) VALUES (?)")
        .bind(item)
        .execute(connection)
        .await
        .map(drop)
}

/// How the transaction ends before its work does.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Commit,
    CommitAndBegin,
    RollBack,
    OrRollback,
    Raise,
}

impl Ends {
    async fn end(self, connection: &mut SqliteConnection) {
        insert(connection, "before").await.unwrap();
        let statements = match self {
            Self::Commit => "COMMIT",
            Self::CommitAndBegin => "COMMIT; BEGIN",
            Self::RollBack => "ROLLBACK",
            Self::OrRollback => "INSERT OR ROLLBACK INTO orders (number, item) VALUES (1, 'twice'), (1, 'twice')",
            Self::Raise => "INSERT INTO checked VALUES (1)",
        };
        let _ = sqlx::raw_sql(statements).execute(&mut *connection).await;
        // Commits by itself, if it is let.
        let _ = insert(connection, "stray").await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Answers,
    Refuses,
    Fails,
    Panics,
}

#[tokio::test]
async fn whatever_ended_the_transaction_nothing_is_kept_and_that_is_said() {
    let (_folder, stores) = stores().await;
    let mut keys = 0;
    for store in &stores {
        let idem = Idempotency::builder(store.clone()).build();
        for ends in [
            Ends::Commit,
            Ends::CommitAndBegin,
            Ends::RollBack,
            Ends::OrRollback,
            Ends::Raise,
        ] {
            for then in [Then::Answers, Then::Refuses, Then::Fails, Then::Panics] {
                keys += 1;
                let key = format!("key {keys}");
                for _ in 0..3 {
                    let error = idem
                        .run_in_tx(id(&key), move |mut tx| async move {
                            ends.end(&mut tx).await;
                            match then {
                                Then::Answers => Ok(1),
                                Then::Refuses => Err(Rollback::Declined(1)),
                                Then::Fails => Err(Rollback::failed("no")),
                                Then::Panics => panic!("at the disco"),
                            }
                        })
                        .await
                        .unwrap_err();
                    let told = (error.effect(), orders(store.pool()).await);
                    assert_eq!(told, (Effect::Nothing, 0), "{ends:?}, {then:?}: {error:?}");
                }
                assert!(idem.status(&id(&key)).await.unwrap().is_none(), "{ends:?}, {then:?}");
            }
        }
        // The store works on, and so does the user's pool.
        let reply = idem
            .run_in_tx(id("next"), |mut tx| async move {
                insert(&mut tx, "tea").await?;
                Ok(1)
            })
            .await
            .unwrap();
        assert_eq!((reply.origin(), orders(store.pool()).await), (Origin::Executed, 1));
        for _ in 0..8 {
            sqlx::query("INSERT INTO orders (item) VALUES ('outside')")
                .execute(store.pool())
                .await
                .unwrap();
        }
        assert_eq!(orders(store.pool()).await, 9);
    }
}

#[tokio::test]
async fn work_that_answers_although_its_transaction_is_over_is_told_so() {
    let (_folder, [store, _]) = stores().await;
    let idem = Idempotency::builder(store.clone()).build();
    let error = idem
        .run_in_tx(id("told"), |mut tx| async move {
            Ends::Commit.end(&mut tx).await;
            Ok(1)
        })
        .await
        .unwrap_err();
    let ErrorKind::Store(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(matches!(source, StoreError::TransactionEnded), "{source:?}");
}

#[tokio::test]
async fn a_commit_of_the_works_own_is_an_error_to_the_work() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let idem = Idempotency::builder(store.clone()).build();
        let reply = idem
            .run_in_tx(id("own"), |mut tx| async move {
                let committed = sqlx::raw_sql("COMMIT").execute(&mut *tx).await;
                Err::<bool, _>(Rollback::failed(committed.unwrap_err().to_string()))
            })
            .await;
        assert!(reply.is_err());
    }
}

/// What is given up is done all the same, on the connection's own thread: before what follows, or meanwhile.
#[tokio::test]
async fn a_commit_that_the_work_gave_up_half_way_keeps_nothing() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = Idempotency::builder(store.clone()).build();
        for round in 0..20 {
            let error = idem
                .run_in_tx(id(&format!("given-up-{round}")), |mut tx| async move {
                    insert(&mut tx, "tea").await?;
                    let mut commit = Box::pin(sqlx::raw_sql("COMMIT").execute(&mut *tx));
                    let _ = futures::poll!(&mut commit);
                    drop(commit);
                    Ok(1)
                })
                .await
                .unwrap_err();
            assert_eq!(error.effect(), Effect::Nothing, "{error:?}");
            assert_eq!(orders(store.pool()).await, 0, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_hook_that_took_the_place_of_ours_is_replaced_by_ours() {
    let (folder, _) = stores().await;
    let options = SqliteConnectOptions::new().filename(folder.path().join("theirs.db"));
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    let idem = Idempotency::builder(store).build();
    for round in 0..3 {
        let reply = idem
            .run_in_tx(id(&format!("before-{round}")), |_| async { Ok(1) })
            .await;
        assert_eq!(reply.unwrap().origin(), Origin::Executed);
        let mut connection = pool.acquire().await.unwrap();
        let mut handle = connection.lock_handle().await.unwrap();
        match round {
            0 => handle.set_commit_hook(|| true),
            _ => handle.remove_commit_hook(),
        }
        drop(handle);
        drop(connection);
        let error = idem
            .run_in_tx(id(&format!("after-{round}")), |mut tx| async move {
                Ends::Commit.end(&mut tx).await;
                Ok(1)
            })
            .await
            .unwrap_err();
        assert_eq!((error.effect(), orders(&pool).await), (Effect::Nothing, 0), "{error:?}");
    }
}

#[tokio::test]
async fn a_nested_transaction_that_is_forgotten_leaves_no_connection_in_a_transaction() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let idem = Idempotency::builder(store.clone()).build();
        for n in 0..4 {
            let answers = n % 2 == 0;
            let error = idem
                .run_in_tx(id("forgotten"), move |mut tx| async move {
                    let mut inner = tx.begin().await?;
                    insert(&mut inner, "tea").await?;
                    std::mem::forget(inner);
                    if answers { Ok(1) } else { Err(Rollback::failed("no")) }
                })
                .await
                .unwrap_err();
            assert_eq!(error.effect(), Effect::Nothing, "{error:?}");
        }
        // On whichever connection of the pool: none is in a transaction, or holds the lock.
        for _ in 0..6 {
            sqlx::query("INSERT INTO orders (item) VALUES ('outside')")
                .execute(store.pool())
                .await
                .unwrap();
        }
        let mut connections = Vec::new();
        for _ in 0..3 {
            let mut connection = store.pool().acquire().await.unwrap();
            assert!(!connection.is_in_transaction());
            sqlx::raw_sql("BEGIN; ROLLBACK")
                .execute(&mut *connection)
                .await
                .expect("it was in no transaction");
            connections.push(connection);
        }
        drop(connections);
        assert_eq!(orders(store.pool()).await, 6);
    }
}
