//! What would break a promise is found, with what to do about it.

use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError};
use oneflight::store::outbox::OutboxUpkeep;
use oneflight::{Message, Relay};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;
use serde_json::Value;

use crate::desk::{Desk, Ran, ran};
use crate::outbox::{Mood, relay, send};
use crate::pgbouncer::Bouncer;
use crate::{postgres, redis};

/// The findings, by their names.
struct Found(Ran, Vec<Value>);

impl Found {
    fn by(desk: &Desk, arguments: &[&str]) -> Self {
        let ran = desk.run(["doctor", "--json"].iter().chain(arguments));
        let found = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        Self(ran, found)
    }

    fn verdict(&self, name: &str) -> &str {
        let found = self.1.iter().find(|it| it["name"] == name);
        let found = found.unwrap_or_else(|| panic!("nothing of {name}: {:?}", self.0));
        assert!(
            !matches!(&found["verdict"], Value::String(verdict) if verdict != "ok" && found["advice"].is_null()),
            "{found}"
        );
        found["verdict"].as_str().unwrap()
    }

    fn code(&self) -> Option<i32> {
        self.0.code
    }

    /// The names of what is no good.
    fn broken(&self) -> Vec<&str> {
        let broken = self.1.iter().filter(|it| it["verdict"] == "BROKEN");
        broken.map(|it| it["name"].as_str().unwrap()).collect()
    }
}

#[tokio::test]
async fn a_store_in_good_order_passes() {
    let desk = Desk::sqlite();
    SqliteStore::open(&desk.store).await.unwrap();
    let found = Found::by(&desk, &[]);
    assert_eq!((found.code(), found.broken()), (Some(0), vec![]), "{:?}", found.0);
    assert_eq!(found.verdict("schema"), "ok");
    assert_eq!(found.verdict("doubts"), "ok");
    let table = desk.ok(["doctor"]);
    assert!(table.out.contains("CHECK") && table.out.contains("clock"), "{table:?}");
    let missing = Desk::sqlite().run(["doctor"]);
    assert_eq!(missing.code, Some(66), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_somebody_is_told() {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    let _ = ran(&mut desk.job("--key a", "kill -9 $$", &desk.path("a")));
    send(
        &store,
        vec![Message::text("mail.receipt", "a"), Message::text("mail.offer", "b")],
    )
    .await;
    let found = Found::by(&desk, &[]);
    // Nobody delivers what waits.
    assert_eq!(
        (found.code(), found.broken()),
        (Some(1), vec!["relays"]),
        "{:?}",
        found.0
    );
    assert_eq!(found.verdict("doubts"), "note");

    let relay = relay(&store, &Mood::default());
    crate::outbox::until_dead(&store, 2).await;
    let found = tokio::task::spawn_blocking(move || {
        desk.ok(["outbox", "pause", "mail.offer", "--yes"]);
        let found = Found::by(&desk, &[]);
        assert_eq!((found.code(), found.broken()), (Some(0), vec![]), "{:?}", found.0);
        assert_eq!(Found::by(&desk, &["--strict"]).code(), Some(1));
        found
    });
    let found = found.await.unwrap();
    for (name, verdict) in [
        ("relays", "ok"),
        ("dead letters", "note"),
        ("paused topics", "note"),
        ("doubts", "note"),
    ] {
        assert_eq!(found.verdict(name), verdict, "{name}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_seldom_shows_a_sign_of_life_breaks_nothing() {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    let relay = Relay::builder(store.clone())
        .lease(Duration::from_secs(3_600))
        .target("mail.*", |_: Delivery| async {
            std::future::pending::<Result<(), DeliveryError>>().await
        })
        .grace(Duration::ZERO)
        .build()
        .unwrap()
        .spawn();
    send(&store, vec![Message::text("mail.receipt", "a")]).await;
    crate::desk::until("it is there", || {
        let handle = tokio::runtime::Handle::current();
        let relays = tokio::task::block_in_place(|| handle.block_on(store.relays()));
        (!relays.unwrap().is_empty()).then_some(())
    });
    let found = tokio::task::spawn_blocking(move || Found::by(&desk, &[]))
        .await
        .unwrap();
    assert_eq!(
        (found.code(), found.verdict("relays")),
        (Some(0), "note"),
        "{:?}",
        found.0
    );
    assert!(found.0.out.contains("one less often"), "{:?}", found.0);
    relay.stop().await;
}

#[tokio::test]
async fn a_database_without_the_tables_is_broken() {
    let desk = Desk::postgres(postgres::server()).await;
    let found = Found::by(&desk, &[]);
    assert_eq!(
        (found.code(), found.broken()),
        (Some(1), vec!["schema"]),
        "{:?}",
        found.0
    );
}

/// Makes the tables, over the server itself.
async fn with_tables(server: &postgres::Server) -> Desk {
    let desk = Desk::postgres(server).await;
    PostgresStore::options()
        .schema(desk.schema())
        .open(&desk.store)
        .await
        .unwrap();
    desk
}

#[tokio::test]
async fn a_server_that_forgets_is_broken_and_one_that_is_strict_is_noted() {
    let settings =
        "-c synchronous_commit=off -c default_transaction_isolation=serializable -c max_locks_per_transaction=10";
    let server = postgres::Server::start(settings);
    let desk = with_tables(&server).await;
    let found = Found::by(&desk, &[]);
    assert_eq!(
        (found.code(), found.broken()),
        (Some(1), vec!["durability"]),
        "{:?}",
        found.0
    );
    assert_eq!(
        (found.verdict("isolation"), found.verdict("locks")),
        ("note", "note"),
        "{:?}",
        found.0
    );
    assert_eq!(
        (found.verdict("clock"), found.verdict("pooler")),
        ("ok", "ok"),
        "{:?}",
        found.0
    );
    assert!(found.0.out.contains("synchronous_commit = off"), "{:?}", found.0);

    // The desk is reached through what shares sessions.
    let bouncer = Bouncer::before(&server, "pool_mode = transaction");
    let through = Desk::postgres_at(bouncer.port(), Some(desk.schema()));
    let found = Found::by(&through, &[]);
    assert_eq!(found.verdict("pooler"), "note", "{:?}", found.0);
}

#[tokio::test]
async fn a_role_that_may_only_read_is_told_what_it_cannot_see() {
    let server = &postgres::Server::start("");
    let desk = with_tables(server).await;
    let schema = desk.schema();
    let (looker, stranger) = (format!("looker_{schema}"), format!("stranger_{schema}"));
    let grants = format!(
        "CREATE ROLE {looker} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {looker};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {looker};
         CREATE ROLE {stranger} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {stranger};
         GRANT SELECT ON {schema}.oneflight_records, {schema}.oneflight_migrations, {schema}.oneflight_workflows,
             {schema}.oneflight_steps TO {stranger}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants))
        .execute(&sqlx::PgPool::connect(&desk.store).await.unwrap())
        .await
        .unwrap();
    let found = Found::by(&desk.by(&looker), &["--strict"]);
    assert_eq!((found.code(), found.broken()), (Some(1), vec![]), "{:?}", found.0);
    assert_eq!(found.verdict("rights"), "unknown", "{:?}", found.0);
    assert!(
        found.0.out.contains("this role may only read") && found.0.out.contains("as the role of the service"),
        "{:?}",
        found.0
    );
    for name in ["doubts", "dead letters", "paused topics", "retention"] {
        assert_eq!(found.verdict(name), "ok", "{name}: {:?}", found.0);
    }
    assert_eq!(Found::by(&desk.by(&looker), &[]).code(), Some(0));

    // One that may not even look at all.
    let found = Found::by(&desk.by(&stranger), &[]);
    assert_eq!(found.verdict("outbox"), "unknown", "{:?}", found.0);
    assert!(found.0.out.contains("grant it SELECT"), "{:?}", found.0);
}

#[test]
fn a_replica_that_has_received_nothing_is_told_on_both_sides() {
    // It has a replica wait that connects.
    let primary = redis::Server::start(&["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "10000"]);
    let port = primary.port().to_string();
    let replica = redis::Server::start(&["--replicaof", "127.0.0.1", &port, "--replica-serve-stale-data", "yes"]);
    let (of_primary, of_replica) = (Desk::redis(&primary), Desk::redis(&replica));
    let found = crate::desk::until("the replica is known", || {
        let found = Found::by(&of_primary, &[]);
        found.0.out.contains("1 replica").then_some(found)
    });
    assert_eq!(found.verdict("replication"), "note", "{:?}", found.0);
    assert!(
        found.0.out.contains("not received everything yet") && found.0.out.contains("Promote no replica"),
        "{:?}",
        found.0
    );
    let found = Found::by(&of_replica, &[]);
    assert_eq!(
        (
            found.code(),
            found.verdict("replication"),
            found.verdict("role of the server")
        ),
        (Some(1), "BROKEN", "BROKEN"),
        "{:?}",
        found.0
    );
    assert!(found.0.out.contains("Do not promote it"), "{:?}", found.0);
}

#[test]
fn a_redis_that_deletes_keys_is_broken() {
    let sound = Desk::redis(redis::server());
    let found = Found::by(&sound, &[]);
    // Nothing is to be waited for where there is no replica.
    assert_eq!(found.verdict("acknowledgement"), "ok", "{:?}", found.0);
    assert_eq!(
        (found.verdict("eviction policy"), found.verdict("doubts")),
        ("ok", "ok"),
        "{:?}",
        found.0
    );
    let server = redis::Server::start(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let found = Found::by(&Desk::redis(&server), &[]);
    assert_eq!(
        (found.code(), found.verdict("eviction policy")),
        (Some(1), "BROKEN"),
        "{:?}",
        found.0
    );
}
