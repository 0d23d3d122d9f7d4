//! A file that can take no more, on a pool of the user's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use oneflight::idempotency::{Effect, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

/// The file does not grow any more.
const FULL: &str = "PRAGMA max_page_count = 1";

/// Another connection would say the same, as would each that is opened for it.
#[tokio::test]
async fn what_no_connection_can_do_is_not_tried_on_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("full.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let (opened, is_full) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let pool = SqlitePoolOptions::new().max_connections(4).after_connect({
        let (opened, is_full) = (Arc::clone(&opened), Arc::clone(&is_full));
        move |connection, _| {
            opened.fetch_add(1, SeqCst);
            let is_full = is_full.load(SeqCst);
            Box::pin(async move {
                if is_full {
                    sqlx::raw_sql(FULL).execute(connection).await?;
                }
                Ok(())
            })
        }
    });
    let pool = pool.connect_with(options).await.unwrap();
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    let idem = Idempotency::builder(store).build();
    // As many as the file has pages now.
    is_full.store(true, SeqCst);
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut connection = pool.acquire().await.unwrap();
        sqlx::raw_sql(FULL).execute(&mut *connection).await.unwrap();
        connections.push(connection);
    }
    drop(connections);
    let mut errors = 0;
    for number in 0..1_000 {
        let before = opened.load(SeqCst);
        // More than one of them fits in nothing that is left of a page.
        let key = format!("{number:0>200}");
        let id = RequestIdentity::new(Scope::new("tenant-7"), key).unwrap();
        let Err(error) = idem.run_in_tx(id, |_| async { Ok(1) }).await else {
            continue;
        };
        errors += 1;
        assert_eq!(error.effect(), Effect::Nothing, "{error:?}");
        let opened = opened.load(SeqCst) - before;
        assert!(opened <= 1, "{opened} connections were opened for {error:?}");
        if errors == 20 {
            return;
        }
    }
    panic!("the file was never full");
}
