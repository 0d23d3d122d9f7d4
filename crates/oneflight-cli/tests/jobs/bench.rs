//! What a call costs is measured on the store that is there, and nothing of that is left in it.

use std::process::Stdio;

use oneflight::store::{RecordQuery, Upkeep};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;
use rustix::process::Signal;

use crate::desk::{Desk, end, kill, until};
use crate::{postgres, redis};

const RECORDS: [&str; 3] = ["round trip", "run, a new key", "run, a replay"];
const ALL: [&str; 5] = [
    "round trip",
    "run, a new key",
    "run, a replay",
    "transaction of one row",
    "run_in_tx, with that row",
];

/// What was measured has all that a person compares.
fn check(told: &serde_json::Value, calls: &[&str], store: &str) {
    assert!(told["store"].as_str().unwrap().starts_with(store), "{told}");
    assert!(told["cores"].as_u64().unwrap() > 0, "{told}");
    let rows = told["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["call"].as_str().unwrap()).collect();
    assert_eq!(names, [calls, calls].concat(), "{told}");
    for (at, row) in rows.iter().enumerate() {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert_eq!(row["clients"], if at < calls.len() { 1 } else { 3 }, "{row}");
        assert_eq!(row["calls"], 20, "{row}");
        assert!(
            number("p50_us") > 0.0 && number("p50_us") <= number("p99_us") && number("per_second") > 0.0,
            "{row}"
        );
        assert_eq!(row["ratio"].is_null(), row["call"] == "round trip", "{row}");
    }
}

async fn nothing_is_left<S: Upkeep>(store: &S) {
    let left = store.records(RecordQuery::all(10)).await.unwrap();
    assert!(left.entries.is_empty() && left.next.is_none(), "{left:?}");
}

const BENCH: [&str; 7] = ["bench", "--calls", "20", "--clients", "1,3", "--yes", "--json"];

#[tokio::test]
async fn over_sqlite_a_call_is_measured_and_nothing_is_left() {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    let told = desk.json(BENCH.into_iter().chain(["--in-tx"]));
    check(&told, &ALL, "SQLite 3");
    nothing_is_left(&store).await;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'oneflight_bench%'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(store.pool()).await.unwrap();
    assert_eq!(tables, 0);
    let table = desk.ok(["bench", "--for", "100ms", "--clients", "2", "--yes"]);
    assert!(
        table.out.contains("cores") && table.out.contains("× round trip"),
        "{table:?}"
    );
}

#[tokio::test]
async fn over_postgres_a_call_is_measured_and_nothing_is_left() {
    let desk = Desk::postgres(postgres::server()).await;
    let store = PostgresStore::options()
        .schema(desk.schema())
        .open(&desk.store)
        .await
        .unwrap();
    check(&desk.json(BENCH.into_iter().chain(["--in-tx"])), &ALL, "PostgreSQL ");
    nothing_is_left(&store).await;
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'oneflight_bench%'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(store.pool()).await.unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn over_redis_a_call_is_measured_and_nothing_is_left() {
    let desk = Desk::redis(redis::server());
    check(&desk.json(BENCH), &RECORDS, "Redis ");
    let store = RedisStore::options()
        .prefix(desk.prefix())
        .open(&*desk.store)
        .await
        .unwrap();
    nothing_is_left(&store).await;
    let tx = desk.run(["bench", "--in-tx", "--yes"]);
    assert_eq!(tx.code, Some(64), "{tx:?}");
}

#[tokio::test]
async fn a_role_that_may_only_read_is_told_so_and_not_that_something_is_left() {
    let desk = Desk::postgres(postgres::server()).await;
    let store = PostgresStore::options()
        .schema(desk.schema())
        .open(&desk.store)
        .await
        .unwrap();
    let schema = desk.schema();
    let reader = format!("reader_{schema}");
    let grants = format!(
        "CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {reader};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};
         ALTER ROLE {reader} SET default_transaction_read_only = on"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants))
        .execute(store.pool())
        .await
        .unwrap();
    for more in [&[][..], &["--in-tx"]] {
        let told = desk.by(&reader).run(BENCH.iter().chain(more));
        assert_eq!((told.code, &*told.out), (Some(77), ""), "{told:?}");
        assert!(!told.err.contains("is still there"), "{told:?}");
    }
}

#[tokio::test]
async fn what_is_interrupted_is_erased_and_nothing_is_written_without_consent() {
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)] {
        interrupted_by(signal, code).await;
    }
}

async fn interrupted_by(signal: Signal, code: i32) {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    let asked = desk.run(["bench"]);
    assert_eq!(asked.code, Some(64), "{asked:?}");
    assert!(asked.err.contains("oneflight-bench-"), "{asked:?}");
    nothing_is_left(&store).await;
    let mut runs = desk.command(["bench", "--for", "1h", "--in-tx", "--yes"]);
    let runs = runs.stdin(Stdio::null()).spawn().unwrap();
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        until("it has written", || {
            let page = handle.block_on(store.records(RecordQuery::all(10))).unwrap();
            (!page.entries.is_empty()).then_some(())
        });
        kill(runs.id(), signal);
        let ended = end(runs);
        assert_eq!((ended.code, &*ended.out), (Some(code), ""), "{ended:?}");
        handle.block_on(nothing_is_left(&store));
    })
    .await
    .unwrap();
}
