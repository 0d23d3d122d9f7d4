//! The same desk over PostgreSQL and Redis.

use oneflight::Idempotency;
use oneflight::idempotency::Origin;
use oneflight::store::Upkeep;
use oneflight_postgres::PostgresStore;

use super::support::{Desk, SCOPE, id, leave_in_doubt};
use super::{postgres, redis};

async fn a_doubt_is_found_and_settled<S: Upkeep + Clone>(desk: &Desk, store: &S) {
    leave_in_doubt(store, id("a7f3")).await;
    assert_eq!(desk.json(&["doubts", "--fail"])[0]["key"], "a7f3");
    let story = desk.json(&["records", "show", "a7f3"]);
    assert_eq!(
        (&story["record"]["state"], &story["record"]["scope"]),
        (&"in-doubt".into(), &SCOPE.into())
    );
    desk.run(&["records", "resolve", "a7f3", "--answer", "7", "--plain", "--yes"])
        .well();
    let idem = Idempotency::builder(store.clone()).build();
    let reply = idem.run(id("a7f3"), |_| async { 8 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (7, Origin::Replayed));
    let listed = desk.json(&["records", "list", "--scope", "tenant-7", "--state", "completed"]);
    assert_eq!(listed["records"][0]["key"], "a7f3");

    assert_eq!(desk.json(&["records", "show", "a7f3"])["record"]["settled"], true);

    // Settled wrongly: its answer goes, and then it altogether.
    desk.run(&["records", "erase", "a7f3", "--answers", "--yes"]).well();
    let error = idem.run(id("a7f3"), |_| async { 8 }).await.unwrap_err();
    assert!(error.to_string().contains("was erased"), "{error}");
    desk.run(&["records", "erase", "a7f3", "--yes"]).well();
    let reply = idem.run(id("a7f3"), |_| async { 9 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (9, Origin::Executed));
    assert_eq!(desk.json(&["records", "show", "a7f3"])["record"]["settled"], false);

    leave_in_doubt(store, id("b2")).await;
    assert_eq!(desk.json(&["doubts"])[0]["held"], false);
    desk.run(&["records", "hold", "b2", "--yes"]).well();
    assert_eq!(desk.json(&["doubts"])[0]["held"], true);
    assert_eq!(
        desk.json(&["records", "show", "b2", "--scope", SCOPE])["record"]["held"],
        true
    );
    let erased = desk.json(&["records", "erase", "--scope", "tenant-7", "--yes"]);
    assert_eq!(erased["erased"], 1);
    assert!(store.load(&id("a7f3")).await.unwrap().is_none());
    desk.run(&["purge", "--all", "--yes"]).well();
}

#[tokio::test]
async fn over_postgresql() {
    let server = postgres::server();
    let address = format!(
        "postgres://{}@127.0.0.1:{}/postgres?sslmode=disable",
        postgres::SUPERUSER,
        server.port()
    );
    let desk = Desk { address };
    // Nothing is made of a name that was mistyped.
    let told = desk.run(&["doubts", "--schema", "shop"]).with(78);
    assert!(told.contains("migrate up"), "{told}");
    assert!(desk.run(&["migrate", "print"]).well().contains("CREATE TABLE"));
    desk.run(&["migrate", "up", "--yes"]).well();
    let store = PostgresStore::options()
        .without_migrations()
        .open(&desk.address)
        .await
        .unwrap();
    a_doubt_is_found_and_settled(&desk, &store).await;

    // A user who may look at nothing.
    let stranger = "CREATE ROLE stranger LOGIN";
    sqlx::query(stranger).execute(store.pool()).await.unwrap();
    let desk = Desk {
        address: desk.address.replace(postgres::SUPERUSER, "stranger"),
    };
    let told = desk.run(&["doubts"]).with(77);
    assert!(told.contains("permission denied"), "{told}");
}

#[tokio::test]
async fn over_redis() {
    let server = redis::server();
    let desk = Desk { address: server.url() };
    let store = server.store("oneflight:").await;
    a_doubt_is_found_and_settled(&desk, &store).await;
    let told = desk.run(&["steps", "list"]).with(64);
    assert!(told.contains("keeps no steps"), "{told}");
    let status = desk.run(&["migrate", "status"]).well();
    assert!(status.contains("nothing to migrate"), "{status}");
}
