//! Promise 10 on PostgreSQL: a call that waits two seconds is answered after two, also by a server that has fallen
//! silent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use crate::postgres::server;
use crate::proxy::{Cut, Proxy};
use oneflight::idempotency::{Context, Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use oneflight_postgres::PostgresStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_is_waited_for_no_longer_than_the_caller_said() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // The store's own patience is ten seconds for each try.
    let store = PostgresStore::from_pool(schema.pool_through(proxy.port(), 4))
        .await
        .unwrap();
    let idem = Idempotency::builder(store).wait(Duration::from_secs(2)).build();
    for in_tx in [false, true] {
        let id = RequestIdentity::new(Scope::new("tenant-7"), format!("silent-{in_tx}")).unwrap();
        let call = async || match in_tx {
            true => idem.run_in_tx(id.clone(), |_| async { Ok(1) }).await,
            false => {
                let work = |context: Context| async move { context.attempt() };
                idem.run(id.clone(), work).await
            }
        };
        proxy.cut_times("silent-", Cut::Swallowed, 100);
        let asked = Instant::now();
        let error = call().await.unwrap_err();
        let took = asked.elapsed();
        assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
        // A transaction that is not answered is rolled back; a claim may be granted still, and is given back then.
        let effect = if in_tx { Effect::Nothing } else { Effect::Unknown };
        assert_eq!(error.effect(), effect);
        assert!(
            took >= Duration::from_secs(2) && took < Duration::from_secs(8),
            "{took:?}"
        );
        proxy.disarm();
        assert_eq!(*call().await.unwrap(), 1, "it is free when the server answers again");
    }
}

#[tokio::test]
async fn an_operation_is_over_within_the_store_s_patience_with_all_its_tries() {
    let schema = server().schema().await;
    let options = PostgresStore::options().patience(Duration::from_secs(1));
    let store = options.from_pool(schema.pool(2)).await.unwrap();
    let id = RequestIdentity::new(Scope::new("tenant-7"), "tried").unwrap();
    let claimed = store.claim(ClaimRequest::new(&id, Duration::from_secs(60))).await;
    let Ok(ClaimOutcome::Granted(claim)) = claimed else {
        panic!("{claimed:?}")
    };
    // Each try takes a while, and loses to another transaction in the end.
    let slow = format!(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_catalog.nextval('{}.tries'), pg_catalog.pg_sleep(0.4);
             RAISE serialization_failure;
         END $$;
         CREATE TRIGGER slow BEFORE DELETE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION slow()",
        schema.name
    );
    sqlx::raw_sql(AssertSqlSafe(slow)).execute(store.pool()).await.unwrap();
    let released = store.release(claim).await;
    assert!(released.is_err());
    let tries: i64 = sqlx::query_scalar("SELECT last_value FROM tries")
        .fetch_one(store.pool())
        .await
        .unwrap();
    // The third is given up, and there is no fourth.
    assert!(tries <= 3, "{tries} tries: {released:?}");
}
