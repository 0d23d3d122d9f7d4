//! Databases, roles and pools with settings of their own have an outbox all the same.

use oneflight::store::outbox::OutboxStore;
use oneflight_postgres::PostgresStore;
use sqlx::{AssertSqlSafe, PgPool};

use crate::postgres::server;
use crate::support::{Texts, count, relay, send, store, text, until};

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
async fn a_role_whose_rights_are_older_than_the_table_of_paused_topics_delivers() {
    let schema = server().schema().await;
    let owner = store(&schema).await;
    let name = &schema.name;
    let grants = format!(
        "CREATE ROLE {name}_relay LOGIN; GRANT USAGE ON SCHEMA {name} TO {name}_relay;
         GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {name} TO {name}_relay;
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {name} TO {name}_relay;
         REVOKE ALL ON oneflight_paused FROM {name}_relay"
    );
    sqlx::raw_sql(AssertSqlSafe(grants))
        .execute(owner.pool())
        .await
        .unwrap();
    let options = schema.options.clone().username(&format!("{name}_relay"));
    let store = PostgresStore::from_pool(PgPool::connect_with(options).await.unwrap())
        .await
        .unwrap();
    let texts = Texts::default();
    let relay = relay(&store, &texts);
    let _ = send(&owner, text("one")).await;
    until("it arrives", || texts.lock().len() == 1).await;
    relay.stop().await;
}
