//! Promise 20 on PostgreSQL: the server's own log shows the correlation id beside each statement of a request's transaction.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::OnceLock;

use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::{Idempotency, Origin, Rollback};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row, SqlSafeStr};
use tokio::sync::{Mutex, MutexGuard};

use crate::pgbouncer::Bouncer;
use crate::postgres::Server;

/// Has a server log every statement, with the name of the application before it.
const LOGS: &str =
    "-c fsync=off -c full_page_writes=off -c log_line_prefix=%a: -c log_statement=all -c log_min_messages=notice";

/// The server of these tests, which logs every statement. Each test has it, and its log, to itself.
async fn server() -> MutexGuard<'static, Server> {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Mutex::new(Server::start(LOGS))).lock().await
}

/// A store over a pool of one connection, whose application is called `shop`.
struct Shop {
    server: MutexGuard<'static, Server>,
    idem: Idempotency<PostgresStore>,
}

impl Shop {
    async fn open() -> Self {
        let server = server().await;
        let schema = server.schema().await;
        let pool = pool(schema.options.application_name("shop"));
        Self::over(server, PostgresStore::from_pool(pool).await.unwrap()).await
    }

    async fn over(server: MutexGuard<'static, Server>, store: PostgresStore) -> Self {
        let orders = "CREATE TABLE orders (item text PRIMARY KEY)";
        sqlx::raw_sql(orders).execute(store.pool()).await.unwrap();
        let idem = Idempotency::builder(store).build();
        Self { server, idem }
    }

    /// Orders something, as the request of this correlation id, or of none. Returns the lines that the server logged.
    async fn order(&self, correlation: Option<&str>, item: &'static str) -> Vec<String> {
        let before = self.server.log().len();
        let id = RequestIdentity::new(Scope::new("tenant-7"), item).unwrap();
        let ordered = self.idem.run_in_tx(id, move |mut tx| async move {
            let insert = format!("INSERT INTO orders VALUES ('{item}')");
            sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *tx).await?;
            match item {
                "hemlock" => Err(Rollback::Declined(false)),
                _ => Ok(true),
            }
        });
        let reply = match correlation {
            Some(text) => correlation::scope(CorrelationId::new(text).unwrap(), ordered).await,
            None => ordered.await,
        };
        assert_eq!(reply.unwrap().origin(), Origin::Executed);
        self.lines_from(before)
    }

    fn lines_from(&self, at: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.server.log()[at..].lines() {
            // A statement of several lines goes on in lines that begin with a tab.
            match (line.strip_prefix('\t'), lines.last_mut()) {
                (Some(more), Some(statement)) => *statement += more,
                (Some(_), None) => {}
                (None, _) => lines.push(line.to_owned()),
            }
        }
        lines
    }

    /// What the server calls the application now that no request is handled.
    async fn name(&self) -> String {
        name(self.idem.store().pool()).await
    }
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(1).connect_lazy_with(options)
}

/// What the server calls this application.
async fn name(pool: &PgPool) -> String {
    let row = sqlx::raw_sql("SHOW application_name").fetch_one(pool).await.unwrap();
    row.get(0)
}

/// The name that stands before the statement of the work's own.
fn name_at(lines: &[String], statement: &str) -> String {
    let found: Vec<_> = lines.iter().filter(|line| line.contains(statement)).collect();
    let [line] = found.as_slice() else {
        panic!("{statement}: {lines:#?}")
    };
    line.split_once(":LOG:").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_log_shows_the_correlation_id_of_each_statement_of_the_work() {
    let shop = Shop::open().await;
    let lines = shop.order(Some("edge-5f2c"), "tea").await;
    assert_eq!(name_at(&lines, "INSERT INTO orders"), "edge-5f2c");
    assert_eq!(name_at(&lines, "COMMIT"), "edge-5f2c");
    assert_eq!(shop.name().await, "shop");

    // What is declined is rolled back to a savepoint, and then committed.
    let lines = shop.order(Some("edge-77aa"), "hemlock").await;
    assert_eq!(name_at(&lines, "INSERT INTO orders"), "edge-77aa");
    assert_eq!(name_at(&lines, "COMMIT"), "edge-77aa");
    assert_eq!(shop.name().await, "shop");

    let lines = shop.order(None, "coffee").await;
    assert_eq!(name_at(&lines, "INSERT INTO orders"), "shop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_takes_no_statement_of_its_own() {
    let shop = Shop::open().await;
    // The first time on a connection, statements are prepared.
    shop.order(None, "tea").await;
    // The last one of a call goes out with the connection's way back to the pool.
    let of_the_call = |line: &String| !line.ends_with("statement: ROLLBACK");
    let mut without = shop.order(None, "coffee").await;
    let mut with = shop.order(Some("edge-5f2c"), "cocoa").await;
    without.retain(of_the_call);
    with.retain(of_the_call);
    assert_eq!(with.len(), without.len(), "{with:#?}\n{without:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_id_is_cut_and_no_id_gets_out_of_its_literal() {
    let shop = Shop::open().await;
    let long = "x".repeat(60) + &"y".repeat(68);
    let lines = shop.order(Some(&long), "tea").await;
    assert_eq!(name_at(&lines, "INSERT INTO orders"), long[..63]);
    // The server would say that it cuts it.
    assert_eq!(
        lines.iter().filter(|line| line.contains("NOTICE")).count(),
        0,
        "{lines:#?}"
    );

    for (nasty, item) in [
        ("a';DROP/**/TABLE/**/orders;--", "coffee"),
        (r"\';\\x41$$E'{}%s%%", "cocoa"),
    ] {
        let lines = shop.order(Some(nasty), item).await;
        assert_eq!(name_at(&lines, "INSERT INTO orders"), nasty);
    }
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(shop.idem.store().pool())
        .await
        .unwrap();
    assert_eq!(orders, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_lends_the_session_to_others_under_their_own_name() {
    let server = server().await;
    let bouncer = Bouncer::before(&server, "pool_mode = transaction\ndefault_pool_size = 1");
    let through = |name| pool(server.options(bouncer.port()).application_name(name));
    let (ours, others) = (through("shop"), through("billing"));
    let options = PostgresStore::options().without_prepared_statements();
    let store = options.from_pool(ours).await.unwrap();
    let shop = Shop::over(server, store).await;
    for (correlation, item) in [("edge-5f2c", "tea"), ("edge-77aa", "hemlock")] {
        let lines = shop.order(Some(correlation), item).await;
        assert_eq!(name_at(&lines, "INSERT INTO orders"), correlation);
        assert_eq!([name(&others).await, shop.name().await], ["billing", "shop"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_another_driver_is_named_as_well() {
    const ID: &str = "a';$1?";

    let shop = Shop::open().await;
    let before = shop.server.log().len();
    let store = shop.idem.store();
    let id = RequestIdentity::new(Scope::new("tenant-7"), "tea").unwrap();
    let foreign = correlation::in_scope(CorrelationId::new(ID).unwrap(), || {
        shop.idem.in_foreign(id, |request| store.foreign(request))
    });
    let mut tx = store.pool().begin().await.unwrap();
    for statement in foreign.begin() {
        let query = statement.values.into_iter().fold(
            sqlx::query(AssertSqlSafe(statement.text).into_sql_str()),
            |query, value| query.bind(value),
        );
        query.execute(&mut *tx).await.unwrap();
    }
    let insert = sqlx::raw_sql("INSERT INTO orders VALUES ('tea')");
    insert.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(name_at(&shop.lines_from(before), "INSERT INTO orders"), ID);
    assert_eq!(shop.name().await, "shop");
}
