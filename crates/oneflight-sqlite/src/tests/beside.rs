//! A connection of the store's own beside a pool of the user's, and where there can be none.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::super::SqliteStore;
use super::super::queue::Rank;
use super::super::writer::Connections;
use super::id;
use oneflight::idempotency::Idempotency;

fn options(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal)
}

fn one() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(1)
}

async fn works(store: &SqliteStore) {
    let idem = Idempotency::builder(store.clone()).build();
    assert_eq!(*idem.run(id("run"), |_| async { 1 }).await.unwrap(), 1);
    assert_eq!(*idem.run_in_tx(id("in tx"), |_| async { Ok(2) }).await.unwrap(), 2);
}

#[tokio::test]
async fn where_there_can_be_no_connection_beside_it_the_pool_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fails = Arc::new(AtomicBool::new(false));
    let fails_later = Arc::clone(&fails);
    // It takes the file away from the connection that comes next.
    let breaks = one().after_connect(move |connection, _| {
        let is_second = fails_later.swap(true, Ordering::SeqCst);
        Box::pin(async move {
            if is_second {
                sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE")
                    .execute(connection)
                    .await?;
            }
            Ok(())
        })
    });
    let delete = options(&path("delete.db")).journal_mode(SqliteJournalMode::Delete);
    let exclusive = options(&path("exclusive.db")).pragma("locking_mode", "EXCLUSIVE");
    for (pool, connections) in [
        (one().connect_with(options(&path("wal.db"))), Connections::Own),
        (one().connect_with(delete), Connections::Users),
        (one().connect_with(exclusive), Connections::Users),
        (
            one().connect_with(options(&path("shared.db")).shared_cache(true)),
            Connections::Users,
        ),
        (
            one().connect_with(SqliteConnectOptions::new().in_memory(true)),
            Connections::Users,
        ),
        (breaks.connect_with(options(&path("hooked.db"))), Connections::Users),
    ] {
        let store = SqliteStore::from_pool(pool.await.unwrap()).await.unwrap();
        assert_eq!(store.writer.connections, connections, "{:?}", store.writer.file);
        assert_eq!(store.works.connections, Connections::Users);
        works(&store).await;
    }
    let opened = SqliteStore::open(path("opened.db")).await.unwrap();
    assert_eq!(opened.works.connections, Connections::Own);
}

#[tokio::test]
async fn the_connection_beside_a_pool_is_set_as_the_first_of_the_pool_was() {
    let folder = tempfile::tempdir().unwrap();
    let connect = options(&folder.path().join("set.db")).synchronous(SqliteSynchronous::Normal);
    let pool = one().connect_with(connect).await.unwrap();
    sqlx::raw_sql("PRAGMA synchronous = EXTRA")
        .execute(&pool)
        .await
        .unwrap();
    let store = SqliteStore::from_pool(pool).await.unwrap();
    for round in 0..3 {
        works(&store).await;
        let mut turn = store.writer.turn(Rank::Business, None).await.unwrap();
        store.writer.set_if_changed(&mut turn).await;
        let synchronous = sqlx::query_scalar("PRAGMA synchronous");
        let synchronous: i64 = synchronous.fetch_one(&mut *turn).await.unwrap();
        assert_eq!(synchronous, 3, "{round}");
        // The next one is a new one.
        turn.connection.close().await;
    }
}
