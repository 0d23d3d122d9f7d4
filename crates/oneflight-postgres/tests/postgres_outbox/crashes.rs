//! Everything is read after a restart, a crash, and a restored dump.

use std::process::{Command, Stdio};

use oneflight::outbox::Outbox;
use oneflight::store::StoreError;
use oneflight::store::outbox::{Cursor, MessageId, OutboxStore, Shard};
use oneflight_postgres::PostgresStore;
use sqlx::PgPool;

use crate::postgres::{self, Server, server};
use crate::support::{Texts, beat, count, relay, send, store, text, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_dump_and_restore_everything_is_read() {
    const MANY: usize = 2_500;
    let schema = server().schema().await;
    let before = store(&schema).await;
    // So many transactions that the new server has not come to their numbers.
    sqlx::raw_sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        .execute(before.pool())
        .await
        .unwrap();
    // More than a relay reads at once.
    let mut tx = before.pool().begin().await.unwrap();
    let many = (0..MANY).map(|_| text("one of many"));
    let _ = Outbox::new(before.clone()).send_all(&mut tx, many).await.unwrap();
    tx.commit().await.unwrap();
    for content in ["one", "two"] {
        let _ = send(&before, text(content).ordering_key("k")).await;
    }
    let other = Server::start("-c fsync=off -c full_page_writes=off");
    let mut dump = Command::new(server().program("pg_dump"))
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &server().port().to_string(),
            "-U",
            postgres::SUPERUSER,
            "-n",
            &schema.name,
        ])
        .arg("postgres")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = Command::new(server().program("psql"))
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &other.port().to_string(),
            "-U",
            postgres::SUPERUSER,
            "-q",
            "-d",
            "postgres",
        ])
        .args(["-v", "ON_ERROR_STOP=1"])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(dump.wait().unwrap().success() && restored.success());
    let options = other.options(other.port()).options([("search_path", &schema.name)]);
    let pool = PgPool::connect_with(options).await.unwrap();
    let newest = count(&pool, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").await;
    assert!(newest < 3000, "the new server has come to {newest}");
    let after = PostgresStore::from_pool(pool).await.unwrap();
    let texts = Texts::default();
    let relay = relay(&after, &texts);
    until("what was restored arrives", || texts.lock().len() == MANY + 2).await;
    let _ = send(&after, text("three").ordering_key("k")).await;
    until("what is new arrives", || texts.lock().len() == MANY + 3).await;
    texts.lock().retain(|text| text != "one of many");
    assert_eq!(*texts.lock(), ["one", "two", "three"]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_comes_back_after_a_restart_of_the_server() {
    let own = Server::start("-c fsync=off -c full_page_writes=off");
    let store = store(&own.schema().await).await;
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    let _ = send(&store, text("before")).await;
    until("it arrives", || texts.lock().len() == 1).await;
    for how in ["fast", "immediate"] {
        own.restart(how);
        // The user's pool may lend a connection that is gone.
        for _ in 0..8 {
            let _ = sqlx::query("SELECT 1").execute(store.pool()).await;
        }
        let _ = send(&store, text(how)).await;
        until("it arrives after the restart", || {
            texts.lock().iter().any(|text| text == how)
        })
        .await;
    }
    until("it is connected", || relay.health().is_connected).await;
    relay.stop().await;
}

/// Reads to the end, and returns the texts, and where that is.
async fn read(store: &PostgresStore, shards: &[Shard], from: &Cursor) -> Result<(Vec<String>, Cursor), StoreError> {
    let (mut cursor, mut texts) = (from.clone(), Vec::new());
    loop {
        let page = store.fetch(shards, &cursor, None, 1000).await?;
        cursor = page.cursor;
        let payload = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
        texts.extend(page.messages.iter().map(|it| payload(&it.payload)));
        if !page.more {
            return Ok((texts, cursor));
        }
    }
}

/// Gives out numbers of transactions that come to nothing, which waits for no disk.
async fn burn(store: &PostgresStore, numbers: usize) {
    let mut connection = store.pool().acquire().await.unwrap();
    for _ in 0..numbers {
        sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")
            .execute(&mut *connection)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_under_a_number_that_a_crash_gave_out_again_is_read() {
    const NEXT: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    // What nobody waits for comes to the disk after ten seconds.
    let own = Server::start("-c wal_writer_delay=10s");
    let store = store(&own.schema().await).await;
    let _ = send(&store, text("before")).await;
    let mut tries = 0;
    let (joined, cursor) = loop {
        let joined = store.beat(beat(None, None, &[])).await.unwrap();
        let (texts, _) = read(&store, &joined.shards, &joined.start).await.unwrap();
        assert_eq!(texts, ["before"]);
        burn(&store, 60).await;
        let (_, cursor) = read(&store, &joined.shards, &joined.start).await.unwrap();
        let before = count(store.pool(), NEXT).await;
        own.restart("immediate");
        // The pools may lend connections that are gone.
        for _ in 0..16 {
            let _ = sqlx::query("SELECT 1").execute(store.pool()).await;
            let _ = store.dead_letters(1, None).await;
        }
        let after = count(store.pool(), NEXT).await;
        if after + 5 < before {
            break (joined, cursor);
        }
        // A page of the log was full just then, and has come to the disk.
        tries += 1;
        assert!(tries < 8, "no crash gave a number out again: {before}, {after}");
    };
    let _ = send(&store, text("after")).await;
    burn(&store, 400).await;
    let taken = store
        .take(
            "default",
            joined.token,
            &joined.shards,
            &[(MessageId::new(1 << 40), 1 << 40)],
        )
        .await;
    assert_eq!(taken.unwrap().lost.len(), 64, "it may deliver before it has read anew");
    // As a relay does.
    let found = match store
        .beat(beat(Some(joined.token), Some(&cursor), &joined.shards))
        .await
    {
        Err(StoreError::RelayOutdated) => {
            let again = store.beat(beat(None, None, &[])).await.unwrap();
            assert!(again.token > joined.token && again.shards.len() == 64);
            read(&store, &again.shards, &again.start).await.unwrap().0
        }
        beaten => {
            beaten.unwrap();
            read(&store, &joined.shards, &cursor).await.unwrap().0
        }
    };
    assert!(found.iter().any(|text| text == "after"), "it was skipped: {found:?}");
}
