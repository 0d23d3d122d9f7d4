//! A schema that is newer than the command, and a migration that has to wait for others.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::postgres;
use super::support::{Desk, File};

#[tokio::test]
async fn a_schema_that_is_newer_than_the_command_passes_no_check() {
    let file = File::new().await;
    let newer = "INSERT INTO oneflight_migrations (version, description, applied_at) VALUES (99, 'of the future', 0)";
    file.store.pool().execute(newer).await.unwrap();
    // A look alone is no check, and tells it.
    let told = file.desk.run(&["migrate", "status"]).well();
    assert!(
        told.contains("version 99") && told.contains("upgrade the command"),
        "{told}"
    );
    for args in [
        &["migrate", "status", "--fail"][..],
        &["migrate", "status", "--fail", "--json"],
        &["migrate", "up", "--yes"],
        &["migrate", "up"],
    ] {
        let told = file.desk.run(args).with(78);
        assert!(
            told.contains("version 99") && told.contains("upgrade the command"),
            "{args:?}: {told}"
        );
    }
}

/// A database of the test's own, without tables.
async fn empty(name: &str) -> (Desk, PgConnection) {
    let server = postgres::server();
    let address = |database: &str| {
        format!(
            "postgres://{}@127.0.0.1:{}/{database}?sslmode=disable",
            postgres::SUPERUSER,
            server.port()
        )
    };
    let connect = async |database: &str| {
        let options: PgConnectOptions = address(database).parse().unwrap();
        let options = options.application_name("a report");
        PgConnection::connect_with(&options).await.unwrap()
    };
    let create = format!("CREATE DATABASE {name}");
    connect("postgres").await.execute(AssertSqlSafe(create)).await.unwrap();
    (Desk { address: address(name) }, connect(name).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_lock_gives_it_up_says_who_has_it_and_changes_nothing() {
    let (desk, mut other) = empty("locked").await;
    // What every migration takes first, by the name of its schema.
    let script = desk.run(&["migrate", "print", "--schema", "public"]).well();
    let lock = script
        .lines()
        .find(|line| line.contains("pg_advisory_xact_lock"))
        .unwrap();
    other.execute("BEGIN").await.unwrap();
    other.execute(AssertSqlSafe(lock.to_owned())).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut other)
        .await
        .unwrap();

    let begun = Instant::now();
    let up = ["migrate", "up", "--yes", "--lock-timeout", "500ms"];
    let told = desk.run(&up).with(75);
    assert!(begun.elapsed() < Duration::from_secs(60), "it takes long: {told}");
    assert!(
        told.contains(&format!("process {pid} (")) && told.contains("a report") && told.contains("nothing was changed"),
        "{told}"
    );
    desk.run(&["migrate", "status", "--fail"]).with(1);
    let told = desk.run(&["migrate", "up"]).with(64);
    assert!(
        told.contains("there are no tables of oneflight; version")
            && told.contains(" has\n")
            && !told.contains("rocesses"),
        "{told}"
    );

    other.execute("ROLLBACK").await.unwrap();
    desk.run(&up).well();
    desk.run(&["migrate", "status", "--fail"]).well();
    for none in ["0s", "2h"] {
        desk.run(&["migrate", "up", "--yes", "--lock-timeout", none]).with(64);
    }
}
