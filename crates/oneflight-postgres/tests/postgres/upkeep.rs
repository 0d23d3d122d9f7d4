//! Promise 20: an operator can look into PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{RecordQuery, Soundness, Store, Upkeep};
use oneflight_conformance as conformance;
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgPoolOptions;

use crate::pgbouncer::Bouncer;
use crate::postgres::{Server, server};

async fn store() -> PostgresStore {
    let schema = server().schema().await;
    PostgresStore::from_pool(schema.pool(8)).await.unwrap()
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_it() {
    conformance::run_upkeep(store).await.unwrap();
    conformance::run_upkeep_of_steps(store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_it_where_transactions_are_isolated_more() {
    let make = async || {
        let mut schema = server().schema().await;
        schema.options = schema
            .options
            .options([("default_transaction_isolation", "serializable")]);
        PostgresStore::from_pool(schema.pool(8)).await.unwrap()
    };
    conformance::run_upkeep(make).await.unwrap();
}

/// Processes of the version before call the procedures without an id, while ours are there as well.
#[tokio::test]
async fn a_process_of_the_version_before_claims_as_it_did() {
    let store = store().await;
    let claim = "CALL oneflight_claim('tenant-7', 'a', NULL::bytea, '\\x000102030405060708090a0b0c0d0e0f'::bytea, 60000::bigint,
                 0::bigint, 7::bigint, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    sqlx::raw_sql(claim).execute(store.pool()).await.unwrap();
    let begin = "CALL oneflight_begin_steps('tenant-7', 'b', NULL::bytea, '\\x000102030405060708090a0b0c0d0e0f'::bytea,
                 60000::bigint, 0::bigint, 8::bigint, 'order', '1', '[\"1\"]', '\\x01'::bytea, '[]', 0::bigint,
                 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    sqlx::raw_sql(begin).execute(store.pool()).await.unwrap();
    let page = store.records(RecordQuery::all(10)).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.id.key()).collect();
    assert_eq!(keys, ["a", "b"]);
    assert!(page.entries.iter().all(|entry| entry.correlation_id.is_none()));
    // It is an error inside of a transaction still, by which nothing is taken for committed that is not.
    let mut transaction = store.pool().begin().await.unwrap();
    let inside = sqlx::raw_sql(claim).execute(&mut *transaction).await;
    assert_eq!(
        inside.unwrap_err().as_database_error().unwrap().code().unwrap(),
        "2D000"
    );
}

#[tokio::test]
async fn every_way_to_claim_keeps_the_id_of_its_request() {
    let idem = Idempotency::builder(store().await).build();
    let of = CorrelationId::new("edge-5f2c").unwrap();
    correlation::scope(of.clone(), async {
        let _ = idem.run(id("run"), |_| async {}).await.unwrap();
        let _ = idem
            .run_in_tx(id("in-tx"), |_| async {
                Ok::<_, oneflight::idempotency::Rollback<()>>(())
            })
            .await
            .unwrap();
    })
    .await;
    let _ = idem.run(id("without"), |_| async {}).await.unwrap();
    let page = idem.store().records(RecordQuery::all(10)).await.unwrap();
    let found: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (entry.id.key(), entry.correlation_id.as_ref().map(CorrelationId::as_str)))
        .collect();
    let given = Some("edge-5f2c");
    assert_eq!(found, [("in-tx", given), ("run", given), ("without", None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_a_promise_is_found() {
    let server = Server::start("-c fsync=off -c max_locks_per_transaction=32 -c statement_timeout=4s");
    let schema = server.schema().await;
    let direct = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let late = "INSERT INTO oneflight_records (scope, key, token, holder, attempt, claimed_at, completed_at, expires_at, result)
                VALUES ('a', 'b', 1, '\\x000102030405060708090a0b0c0d0e0f', 1, 0, 0, 0, '\\x0103')";
    sqlx::raw_sql(late).execute(direct.pool()).await.unwrap();
    let found = verdicts(&direct).await;
    for (name, verdict) in [
        ("durability", Soundness::Broken),
        ("locks", Soundness::Remarkable),
        ("limits of time", Soundness::Remarkable),
        ("retention", Soundness::Remarkable),
        ("pooler", Soundness::Sound),
        ("notifications", Soundness::Sound),
        ("isolation", Soundness::Sound),
        ("clock", Soundness::Sound),
        ("schema", Soundness::Sound),
        ("role of the server", Soundness::Sound),
        ("rights", Soundness::Sound),
        ("version", Soundness::Sound),
    ] {
        assert!(found.contains(&(name, verdict)), "{name}: {found:?}");
    }
    // A record that is past its retention is not listed, and is purged.
    assert!(direct.records(RecordQuery::all(1)).await.unwrap().entries.is_empty());
    assert_eq!(direct.purge(10).await.unwrap(), 1);

    let bouncer = Bouncer::before(&server, "pool_mode = transaction\ndefault_pool_size = 4");
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(20))
        .connect_lazy_with(server.options(bouncer.port()));
    let options = PostgresStore::options()
        .schema(schema.name.clone())
        .without_prepared_statements();
    let shared = options.from_pool(pool).await.unwrap();
    let found = verdicts(&shared).await;
    assert!(found.contains(&("notifications", Soundness::Remarkable)), "{found:?}");
    assert!(found.contains(&("pooler", Soundness::Sound)), "{found:?}");
}

async fn verdicts(store: &PostgresStore) -> Vec<(&'static str, Soundness)> {
    let findings = store.findings().await.unwrap();
    findings.into_iter().map(|it| (it.name, it.verdict)).collect()
}

#[tokio::test]
async fn the_status_of_a_schema_is_told_and_nothing_is_changed() {
    let schema = server().schema().await;
    let pool = schema.pool(1);
    let options = PostgresStore::options().schema(schema.name.clone());
    use sqlx::ConnectOptions;
    let url = server().options(server().port()).to_url_lossy().to_string();
    let empty = options.schema_status(&url).await.unwrap();
    assert_eq!((empty.found, empty.known, empty.missing.len()), (0, 14, 14));
    assert_eq!(empty.compatible_from, 9, "once it is made");
    assert_eq!(options.schema_status(&url).await.unwrap(), empty);
    PostgresStore::from_pool(pool).await.unwrap();
    let full = options.schema_status(&url).await.unwrap();
    assert_eq!((full.found, full.missing.len(), full.compatible_from), (14, 0, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_are_held_while_they_are_being_taken_over_are_not() {
    let store = store().await;
    let begin = |holder: u8, takeover: i64| {
        format!(
            "CALL oneflight_begin_steps('tenant-7', 'held-meanwhile', NULL::bytea, decode(repeat('0{holder}', 16), 'hex'),
             0::bigint, {takeover}::bigint, 9::bigint, 'order', '1', '[\"1\"]', '\\x01'::bytea, '[]', 0::bigint, '',
             NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        )
    };
    let call = async |text: String, pool| sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(pool).await.map(drop);
    call(begin(1, 0), store.pool()).await.unwrap();
    let mut operator = store.pool().begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM oneflight_records FOR UPDATE")
        .execute(&mut *operator)
        .await
        .unwrap();
    let holds = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock' AND query LIKE 'CALL %''held-meanwhile''%')";
        while !sqlx::query_scalar::<_, bool>(waits)
            .fetch_one(store.pool())
            .await
            .unwrap()
        {
            tokio::task::yield_now().await;
        }
        sqlx::raw_sql("UPDATE oneflight_workflows SET held = true")
            .execute(&mut *operator)
            .await
            .unwrap();
        operator.commit().await.unwrap();
    };
    let (taken, ()) = tokio::join!(call(begin(2, -1), store.pool()), holds);
    taken.unwrap();
    let holders = "SELECT (SELECT encode(holder, 'hex') FROM oneflight_records)
                       || (SELECT encode(holder, 'hex') FROM oneflight_workflows)";
    let holders: String = sqlx::query_scalar(holders).fetch_one(store.pool()).await.unwrap();
    assert_eq!(holders, "01".repeat(32));
}
