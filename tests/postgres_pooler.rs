//! PostgreSQL behind PgBouncer, which lends its sessions to whoever has a transaction, or to whoever is connected.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{RequestId, Scope};
use oneflight::store::{PostgresStore, Store};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinHandle;

#[path = "common/pgbouncer.rs"]
mod pgbouncer;
#[path = "common/postgres.rs"]
mod postgres;

use pgbouncer::Bouncer;
use postgres::Server;

fn id(key: &str) -> RequestId {
    RequestId::new(Scope::new("tenant-7"), key).unwrap()
}

/// A pool of connections through a pooler, as its users are told to make one.
fn pool(server: &Server, bouncer: &Bouncer, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(server.options(bouncer.port()))
}

/// How many advisory locks there are on the server.
async fn locks(direct: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        .fetch_one(direct)
        .await
        .unwrap()
}

/// Keeps a session of the pooler's busy for moments, as other services do, so that it lends now this one, now that one.
fn traffic(server: &Server, bouncer: &Bouncer) -> JoinHandle<()> {
    let pool = pool(server, bouncer, 1);
    tokio::spawn(async move {
        loop {
            let _ = sqlx::raw_sql("SELECT pg_sleep(0.01)").execute(&pool).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_transaction_mode_waits_leave_no_locks_behind() {
    let server = Server::start("-c fsync=off");
    let schema = server.schema().await;
    let direct = schema.pool(1);
    let bouncer = Bouncer::before(&server, "transaction", 8);
    let others = traffic(&server, &bouncer);
    // Only the ear goes through the pooler, so that no name of a statement of the pool's gets in its way.
    let pool = schema.pool(1);
    let store = PostgresStore::open(pool.clone()).await.unwrap();
    pool.set_connect_options(server.options(bouncer.port()));
    let mut heard = 0;
    for number in 0..100 {
        let watch = store.watch(&id(&format!("waited-for-{number}"))).await;
        heard += usize::from(!watch.is_none());
        drop(watch);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    others.abort();
    // What is not left behind is gone by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((heard, locks(&direct).await), (0, 0), "heard, and locks that are left");
}
