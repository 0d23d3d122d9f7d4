//! Promise 15 in PostgreSQL: nothing is skipped, however late it commits, and the store does not rot.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, RelayHandle, Sent};
use oneflight::store::StoreError;
use oneflight::store::outbox::{Beat, Cursor, MessageId, OutboxStore, RelayToken, Shard};
use oneflight_postgres::PostgresStore;
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection, PgPool};
use tokio::time::{Instant, sleep, timeout};

#[path = "../../../../tests/common/postgres.rs"]
mod postgres;

mod forgotten;

use postgres::{Schema, Server, server};

const LONG: Duration = Duration::from_secs(30);

type Texts = Arc<Mutex<Vec<String>>>;

async fn store(schema: &Schema) -> PostgresStore {
    PostgresStore::from_pool(schema.pool(8)).await.unwrap()
}

fn relay(store: &PostgresStore, texts: &Texts) -> RelayHandle {
    let texts = Arc::clone(texts);
    let keep = move |delivery: Delivery| {
        texts
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let builder = Relay::builder(store.clone()).lease(Duration::from_secs(1));
    builder.target("*", keep).build().unwrap().spawn()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waits)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn text(text: &str) -> Message {
    Message::text("note", text)
}

async fn send(store: &PostgresStore, message: Message) -> Sent {
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin().await.unwrap();
    let sent = outbox.send(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
    outbox.wake();
    sent
}

/// Keeps house until no message is left. What somebody used a moment ago is left alone for a while.
async fn room_is_free(store: &PostgresStore) {
    let keeps = async {
        while count(store.pool(), "SELECT count(*) FROM oneflight_messages").await > 0 {
            store.keep_house().await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, keeps).await.expect("room was not given back");
}

async fn count(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_transaction_commits_late_is_delivered() {
    let store = store(&server().schema().await).await;
    let (texts, outbox) = (Texts::default(), Outbox::new(store.clone()));
    let relay = relay(&store, &texts);
    let mut late = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut late, text("late")).await.unwrap();
    let mut savepoint = late.begin().await.unwrap();
    let _ = outbox.send(&mut savepoint, text("late, in a savepoint")).await.unwrap();
    savepoint.commit().await.unwrap();
    for number in 0..20 {
        let _ = send(&store, text(&number.to_string())).await;
        sleep(Duration::from_millis(5)).await;
    }
    // One that took a long time stalls nothing.
    until("the others arrive", || texts.lock().len() == 20).await;
    late.commit().await.unwrap();
    outbox.wake();
    until("the late ones arrive", || texts.lock().len() == 22).await;
    let _ = send(&store, text("last")).await;
    until("the last one arrives", || texts.lock().len() == 23).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_given_out_and_that_no_snapshot_knows_is_not_skipped() {
    // Nobody else's transactions end here: a snapshot knows numbers up to the last one that ended.
    let own = Server::start("-c fsync=off -c full_page_writes=off");
    let store = store(&own.schema().await).await;
    let (texts, outbox) = (Texts::default(), Outbox::new(store.clone()));
    let keeps = Arc::clone(&texts);
    let keep = move |delivery: Delivery| {
        keeps
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone()).target("*", keep).build().unwrap().spawn();
    until("it has read", || {
        relay.health().shards == 64 && relay.health().polls > 0
    })
    .await;
    // Its second sign of life.
    sleep(Duration::from_secs(2)).await;
    let mut open = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut open, text("open")).await.unwrap();
    for _ in 0..4 {
        let polls = relay.health().polls;
        outbox.wake();
        until("it looks", || relay.health().polls > polls).await;
    }
    open.commit().await.unwrap();
    outbox.wake();
    until("it arrives", || texts.lock().len() == 1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_all_lengths_lose_nothing_and_keep_their_order() {
    const TASKS: usize = 8;
    const ROUNDS: usize = 40;
    let store = store(&server().schema().await).await;
    let committed: Arc<Mutex<HashMap<usize, Vec<String>>>> = Arc::default();
    let texts = Texts::default();
    let mut relays = vec![relay(&store, &texts), relay(&store, &texts)];
    let tasks = (0..TASKS).map(|task| {
        let (store, committed) = (store.clone(), Arc::clone(&committed));
        tokio::spawn(async move {
            let outbox = Outbox::new(store.clone());
            for round in 0..ROUNDS {
                let key = (task + round) % 3;
                let content = format!("{key} {task} {round}");
                let mut tx = store.pool().begin().await.unwrap();
                sqlx::query("SELECT pg_current_xact_id()")
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                sleep(Duration::from_millis(((task * 7 + round * 13) % 23) as u64)).await;
                let message = text(&content).ordering_key(format!("key-{key}"));
                let _ = outbox.send(&mut tx, message).await.unwrap();
                sleep(Duration::from_millis(((task * 5 + round * 3) % 11) as u64)).await;
                if (task + round) % 7 == 0 {
                    tx.rollback().await.unwrap();
                } else {
                    // Its key's lock is held until the commit, so this order is that of the commits.
                    committed.lock().entry(key).or_default().push(content);
                    tx.commit().await.unwrap();
                    outbox.wake();
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    sleep(Duration::from_millis(150)).await;
    // A relay that goes and one that comes, in the middle.
    relays.remove(0).stop().await;
    relays.push(relay(&store, &texts));
    for task in tasks {
        task.await.unwrap();
    }
    let all: usize = committed.lock().values().map(Vec::len).sum();
    until("all arrive", || texts.lock().len() >= all).await;
    for relay in relays {
        relay.stop().await;
    }
    let mut arrived: HashMap<usize, Vec<String>> = HashMap::new();
    for text in texts.lock().iter() {
        let key = text.split(' ').next().unwrap().parse().unwrap();
        arrived.entry(key).or_default().push(text.clone());
    }
    assert_eq!(arrived, *committed.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_dump_and_restore_everything_is_read() {
    let schema = server().schema().await;
    let before = store(&schema).await;
    // So many transactions that the new server has not come to their numbers.
    sqlx::raw_sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        .execute(before.pool())
        .await
        .unwrap();
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
    until("what was restored arrives", || texts.lock().len() == 2).await;
    let _ = send(&after, text("three").ordering_key("k")).await;
    until("what is new arrives", || texts.lock().len() == 3).await;
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

fn beat(token: Option<RelayToken>, cursor: Option<&Cursor>, shards: &[Shard]) -> Beat {
    Beat {
        group: "default".into(),
        token,
        share: 64,
        gives_back: Vec::new(),
        dead: Vec::new(),
        cursor: cursor.cloned(),
        shards: shards.to_vec(),
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taking_sees_what_was_cancelled_while_it_waited_whatever_transactions_are_usually_like() {
    for usual in ["read committed", "repeatable read", "serializable"] {
        let mut schema = server().schema().await;
        schema.options = schema.options.options([("default_transaction_isolation", usual)]);
        let store = store(&schema).await;
        let id = send(&store, text("cancelled")).await.id().get();
        let relay = store.beat(beat(None, None, &[])).await.unwrap();
        let mut cancels = store
            .pool()
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
            .unwrap();
        let withdraw = sqlx::query_scalar::<_, bool>("SELECT oneflight_withdraw($1, NULL)").bind(id);
        assert!(withdraw.fetch_one(&mut *cancels).await.unwrap());
        let takes = {
            let (store, shards) = (store.clone(), relay.shards.clone());
            tokio::spawn(async move {
                store
                    .take("default", relay.token, &shards, &[(MessageId::new(id), id)])
                    .await
                    .unwrap()
            })
        };
        sleep(Duration::from_millis(200)).await;
        assert!(!takes.is_finished(), "it did not wait");
        cancels.commit().await.unwrap();
        assert_eq!(takes.await.unwrap().cancelled, [id], "{usual}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_read_only_unless_told_otherwise_has_an_outbox() {
    let mut schema = server().schema().await;
    let writes = store(&schema).await;
    schema.options = schema.options.options([("default_transaction_read_only", "on")]);
    let store = store(&schema).await;
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    let _ = send(&writes, text("one")).await;
    until("it arrives", || texts.lock().len() == 1).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    relay.stop().await;
    for _ in 0..3 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(count(store.pool(), "SELECT count(*) FROM oneflight_messages").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_used_up_stops_no_relay() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(1)).await.unwrap();
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    let _ = send(&store, text("sent")).await;
    let held = store.pool().acquire().await.unwrap();
    until("it arrives", || texts.lock().len() == 1).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    drop(held);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_emptied_as_a_whole_and_nothing_is_deleted() {
    let store = store(&server().schema().await).await;
    let texts = Texts::default();
    let first = relay(&store, &texts);
    for number in 0..50 {
        let _ = send(&store, text(&number.to_string())).await;
    }
    until("all arrive", || texts.lock().len() == 50).await;
    first.stop().await;
    let pool = store.pool();
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages").await, 50);
    for _ in 0..3 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages").await, 0);
    assert_eq!(count(pool, "SELECT count(*) FROM oneflight_messages_0").await, 0);
    assert_eq!(count(pool, "SELECT messages::bigint FROM oneflight_rotation").await, 1);
    let deleted = "SELECT sum(n_tup_del + n_tup_upd)::bigint FROM pg_stat_user_tables
                   WHERE schemaname = current_schema() AND relname ~ 'messages_|receipts_'";
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(count(pool, deleted).await, 0);
    let again = relay(&store, &texts);
    let _ = send(&store, text("later")).await;
    until("it arrives", || texts.lock().len() == 51).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_kept_for_what_has_not_ended_or_is_about_to_be_written() {
    let store = store(&server().schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut late = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut late, text("late")).await.unwrap();
    let _ = send(&store, text("waits")).await;
    for _ in 0..3 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(
        count(store.pool(), "SELECT messages::bigint FROM oneflight_rotation").await,
        1
    );
    assert_eq!(
        count(store.pool(), "SELECT count(*) FROM oneflight_messages_0").await,
        1
    );
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    until("it arrives", || texts.lock().len() == 1).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    // All that can be seen there has ended, and the lock is held.
    store.keep_house().await.unwrap();
    assert_eq!(
        count(store.pool(), "SELECT count(*) FROM oneflight_messages_0").await,
        1
    );
    late.commit().await.unwrap();
    store.keep_house().await.unwrap();
    outbox.wake();
    until("the late one arrives", || texts.lock().len() == 2).await;
    until("it is recorded", || relay.health().backlog == 0).await;
    relay.stop().await;
    room_is_free(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_an_old_snapshot_delays_the_emptying_only() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("one")).await;
    let texts = Texts::default();
    let first = relay(&store, &texts);
    until("it arrives", || texts.lock().len() == 1).await;
    first.stop().await;
    let mut report = store
        .pool()
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    sqlx::query("SELECT count(*) FROM oneflight_messages")
        .execute(&mut *report)
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(timeout(LONG, store.keep_house()).await.unwrap().is_ok());
    }
    assert_eq!(count(store.pool(), "SELECT count(*) FROM oneflight_messages").await, 1);
    report.rollback().await.unwrap();
    room_is_free(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_emptied_while_clients_send_all_the_time() {
    let store = store(&server().schema().await).await;
    for number in 0..20 {
        let _ = send(&store, text(&number.to_string())).await;
    }
    let texts = Texts::default();
    let first = relay(&store, &texts);
    until("all arrive", || texts.lock().len() == 20).await;
    until("all are recorded", || first.health().backlog == 0).await;
    first.stop().await;
    // It is never the case that nobody sends.
    let clients: Vec<_> = (0..7)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let outbox = Outbox::new(store.clone());
                loop {
                    let mut tx = store.pool().begin().await.unwrap();
                    let _ = outbox.send(&mut tx, text("more").key(random(client))).await.unwrap();
                    sleep(Duration::from_millis(15)).await;
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    let begun = Instant::now();
    while count(
        store.pool(),
        "SELECT count(*) FROM oneflight_messages_0 WHERE sent_at > 0",
    )
    .await
        > 0
    {
        store.keep_house().await.unwrap();
        assert!(begun.elapsed() < LONG, "the partition was never emptied");
        // From when it is not written to any more, nothing of it is left but what clients have sent before.
        let rest = relay(&store, &texts);
        sleep(Duration::from_millis(200)).await;
        rest.stop().await;
    }
    for client in clients {
        client.abort();
    }
}

fn random(client: usize) -> String {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    format!("{client} {}", COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_delivers_keeps_no_room_from_being_given_back() {
    let store = store(&server().schema().await).await;
    let pool = store.pool();
    let left = Message::text("nobody's", "left").ordering_key("k").key("left");
    let sent = send(&store, left.clone()).await;
    let texts = Texts::default();
    let keeps = Arc::clone(&texts);
    let keep = move |delivery: Delivery| {
        keeps
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone())
        .target("note", keep)
        .build()
        .unwrap()
        .spawn();
    let turn = async || {
        let arrived = texts.lock().len();
        let _ = send(&store, text("more")).await;
        until("it arrives", || texts.lock().len() > arrived).await;
        until("it is recorded", || relay.health().backlog == 0).await;
        let passed = "UPDATE oneflight_rotation SET since = since - 20000";
        sqlx::query(passed).execute(pool).await.unwrap();
        store.keep_house().await.unwrap();
    };
    for _ in 0..15 {
        turn().await;
    }
    let receipts = count(pool, "SELECT count(*) FROM oneflight_receipts").await;
    assert!(receipts < 24, "{receipts} receipts were kept for one message");
    let messages = count(pool, "SELECT count(*) FROM oneflight_messages").await;
    assert!(messages < 12, "{messages} messages were kept");
    relay.stop().await;
    assert_eq!(send(&store, left).await, Sent::Duplicate(sent.id()));
    let others = Texts::default();
    let keeps = Arc::clone(&others);
    let keep = move |delivery: Delivery| {
        keeps.lock().push(format!("{} {}", delivery.id(), delivery.attempt()));
        async { Ok::<(), DeliveryError>(()) }
    };
    let other = Relay::builder(store.clone())
        .target("nobody's", keep)
        .build()
        .unwrap()
        .spawn();
    until("it arrives", || !others.lock().is_empty()).await;
    until("it is recorded", || other.health().backlog == 0).await;
    other.stop().await;
    assert_eq!(*others.lock(), [format!("{} 1", sent.id())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_delays_no_rotation() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("one")).await;
    let ahead = "UPDATE oneflight_rotation SET since = (extract(epoch FROM now()) * 1000)::bigint + 3600000";
    sqlx::query(ahead).execute(store.pool()).await.unwrap();
    store.keep_house().await.unwrap();
    let current = "SELECT messages::bigint FROM oneflight_rotation";
    assert_eq!(count(store.pool(), current).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_rights_on_the_records_alone_purges_them() {
    let schema = server().schema().await;
    let owner = store(&schema).await;
    let name = &schema.name;
    let grants = format!(
        "CREATE ROLE {name}_records LOGIN; GRANT USAGE ON SCHEMA {name} TO {name}_records;
         GRANT SELECT, INSERT, UPDATE, DELETE ON oneflight_records TO {name}_records;
         GRANT SELECT ON oneflight_migrations TO {name}_records"
    );
    sqlx::raw_sql(AssertSqlSafe(grants))
        .execute(owner.pool())
        .await
        .unwrap();
    let options = schema.options.clone().username(&format!("{name}_records"));
    let pool = PgPool::connect_with(options).await.unwrap();
    let records = PostgresStore::from_pool(pool).await.unwrap();
    assert_eq!(oneflight::store::Store::purge(&records, 10).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_races_over_a_rotation_is_sent_once() {
    let store = store(&server().schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut first = store.pool().begin().await.unwrap();
    let sent = outbox.send(&mut first, text("one").key("k")).await.unwrap();
    let _ = send(&store, text("another")).await;
    for _ in 0..2 {
        store.keep_house().await.unwrap();
    }
    assert_eq!(
        count(store.pool(), "SELECT messages::bigint FROM oneflight_rotation").await,
        1
    );
    let second = {
        let store = store.clone();
        tokio::spawn(async move { send(&store, text("two").key("k")).await })
    };
    sleep(Duration::from_millis(100)).await;
    assert!(!second.is_finished(), "the second one did not wait for the first");
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), Sent::Duplicate(sent.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_asks_one_question_in_five_seconds() {
    let own = Server::start("-c fsync=off -c log_statement=all");
    let store = store(&own.schema().await).await;
    let texts = Texts::default();
    let keeps = Arc::clone(&texts);
    let keep = move |_: Delivery| {
        keeps.lock().push(String::new());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone()).target("*", keep).build().unwrap().spawn();
    let _ = send(&store, text("one")).await;
    until("it arrives", || texts.lock().len() == 1).await;
    // Until the room of what was delivered is looked after.
    sleep(Duration::from_secs(27)).await;
    let statements = || {
        own.log()
            .lines()
            .filter(|line| line.contains("execute") || line.contains("statement:"))
            .count()
    };
    let (before, begun) = (statements(), Instant::now());
    sleep(Duration::from_secs(16)).await;
    let asked = statements() - before;
    let allowed = begun.elapsed().as_secs() / 5 + 1;
    let log = own.log();
    let last: Vec<_> = log.lines().filter(|line| line.contains("LOG:")).skip(before).collect();
    assert!(asked as u64 <= allowed, "{asked} questions: {last:#?}");
    assert!(asked >= 2, "it showed no sign of life");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_is_one_statement_and_no_notification() {
    let own = Server::start("-c fsync=off -c log_statement=all");
    let store = store(&own.schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin().await.unwrap();
    let statements = || {
        own.log()
            .lines()
            .filter(|line| line.contains("execute") || line.contains("statement:"))
            .count()
    };
    sleep(Duration::from_millis(200)).await;
    let (before, logged) = (statements(), own.log().len());
    outbox
        .send_all(&mut tx, (0..10).map(|number| text(&number.to_string())))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(statements() - before, 2, "{}", own.log());
    assert!(!own.log()[logged..].to_lowercase().contains("notify"));
}
