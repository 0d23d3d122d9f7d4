//! PostgreSQL behind PgBouncer, which lends its sessions for a transaction, or for the length of a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error as _;
use std::time::{Duration, Instant};

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Store, StoreError};
use oneflight_conformance::{self as conformance, Failure, Ledger, Written};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::task::AbortHandle;

use crate::pgbouncer::Bouncer;
use crate::postgres::{Server, server};
use crate::proxy::Proxy;
use crate::together::watched;

const SESSION: &str = "pool_mode = session\ndefault_pool_size = 80";
const TRANSACTION: &str = "pool_mode = transaction\ndefault_pool_size = 8";
/// Lends the session that was idle for longest, not the one that was just given back.
const IN_TURN: &str = "pool_mode = transaction\ndefault_pool_size = 8\nserver_round_robin = 1";

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A pool of connections through a pooler.
fn pool(server: &Server, bouncer: &Bouncer, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(server.options(bouncer.port()))
}

/// Keeps sessions of the pooler's busy for moments, as other services do, so that it lends now this one, now that one.
/// Until this is dropped.
struct Traffic(Vec<AbortHandle>);

impl Traffic {
    fn through(server: &Server, bouncer: &Bouncer) -> Self {
        let task = |pause: u64| {
            let pool = pool(server, bouncer, 1);
            let traffic = tokio::spawn(async move {
                loop {
                    let _ = pool.execute("SELECT pg_sleep(0.005)").await;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            });
            traffic.abort_handle()
        };
        Self([3, 7, 11].map(task).into())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// How many advisory locks there are on the server.
async fn locks(direct: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        .fetch_one(direct)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_transaction_mode_waits_leave_no_locks_behind_and_are_told_to_poll() {
    for mode in [TRANSACTION, IN_TURN] {
        let server = Server::start("-c fsync=off");
        let schema = server.schema().await;
        let direct = schema.pool(1);
        let bouncer = Bouncer::before(&server, mode);
        let proxy = Proxy::before(bouncer.port()).await;
        let traffic = Traffic::through(&server, &bouncer);
        // Only the ear goes through the pooler, so that no name of a statement of the pool's gets in its way.
        let pool = schema.pool(1);
        let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
        pool.set_connect_options(server.options(proxy.port()));
        let (mut asked, mut heard) = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            asked += 1;
            let watch = store.watch(&id(&format!("waited-for-{asked}"))).await;
            heard += usize::from(!watch.is_none());
            drop(watch);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(traffic);
        let left = locks(&direct).await;
        assert_eq!((heard, left), (0, 0), "{mode}: heard, and locks that are left");
        // The listening one and its witness, once: it is asked again after minutes only.
        assert_eq!(proxy.connections(), 2, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_session_mode_a_waiter_hears() {
    let schema = server().schema().await;
    let bouncer = Bouncer::before(server(), SESSION);
    let open = async || {
        let options = PostgresStore::options().schema(&schema.name);
        options.from_pool(pool(server(), &bouncer, 2)).await.unwrap()
    };
    let (one, two) = (open().await, open().await);
    let mut watch = watched(&two, &id("watched")).await;
    let idem = oneflight::idempotency::Idempotency::builder(one).build();
    let _ = idem.run(id("watched"), |_| async { 1 }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), watch.changed())
        .await
        .unwrap();
    assert!(!watch.is_none());
}

/// A store, and the schema of the orders.
#[derive(Clone)]
struct Orders(PostgresStore, String);

impl Ledger for Orders {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.0
    }

    fn write<'c>(&self, connection: &'c mut PgConnection) -> Written<'c> {
        let insert = format!("INSERT INTO {}.orders (item) VALUES ($1)", self.1);
        Box::pin(async move {
            sqlx::query(AssertSqlSafe(insert))
                .bind("tea")
                .persistent(false)
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let mut transaction = self.0.pool().begin().await.map_err(StoreError::unavailable)?;
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {}.orders", self.1));
        let count = sqlx::query_scalar::<_, i64>(count).persistent(false);
        let count = count.fetch_one(&mut *transaction).await;
        Ok(u64::try_from(count.map_err(StoreError::unavailable)?).unwrap())
    }
}

async fn orders(bouncer: &Bouncer, prepares: bool) -> Orders {
    let schema = server().schema().await;
    let table = schema.pool(1).execute("CREATE TABLE orders (item text NOT NULL)").await;
    table.unwrap();
    let mut options = PostgresStore::options().schema(&schema.name);
    if !prepares {
        options = options.without_prepared_statements();
    }
    Orders(
        options.from_pool(pool(server(), bouncer, 8)).await.unwrap(),
        schema.name,
    )
}

fn kept(checked: Result<(), Failure>) {
    if let Err(failure) = checked {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_session_mode_it_keeps_what_every_store_promises() {
    let bouncer = Bouncer::before(server(), SESSION);
    kept(conformance::run(async || orders(&bouncer, true).await.0).await);
    kept(conformance::run_transactional(async || orders(&bouncer, true).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_transaction_mode_without_prepared_statements_it_keeps_what_every_store_promises() {
    for mode in [TRANSACTION, IN_TURN] {
        let bouncer = Bouncer::before(server(), mode);
        kept(conformance::run(async || orders(&bouncer, false).await.0).await);
        kept(conformance::run_transactional(async || orders(&bouncer, false).await).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_transaction_mode_a_prepared_statement_that_is_not_there_is_said_to_be_so() {
    // More sessions than all the tries of one operation come by.
    const SESSIONS: u32 = 40;
    let schema = server().schema().await;
    let mode = format!("pool_mode = transaction\ndefault_pool_size = {SESSIONS}\nserver_round_robin = 1");
    let bouncer = Bouncer::before(server(), &mode);
    let options = PostgresStore::options().schema(&schema.name);
    let store = options.from_pool(pool(server(), &bouncer, 1)).await.unwrap();
    // All at once, so that each is in a session of its own.
    let others = pool(server(), &bouncer, SESSIONS);
    let mut transactions = Vec::new();
    for _ in 0..SESSIONS {
        transactions.push(others.begin().await.unwrap());
    }
    for transaction in transactions {
        transaction.rollback().await.unwrap();
    }
    match store.load(&id("k")).await {
        Err(StoreError::Unsupported { advice }) => assert!(advice.contains("without_prepared_statements"), "{advice}"),
        other => panic!("{other:?}"),
    }
}
