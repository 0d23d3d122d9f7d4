//! A file that is no store, or that is written while it is looked at.

use super::support::{Desk, Ended, File, id, leave_in_doubt};

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(
        &path,
        "my notes, which are longer than the header of a database: so it cannot be one",
    )
    .unwrap();
    let desk = Desk {
        address: path.to_str().unwrap().to_owned(),
    };
    let told = desk.run(&["doubts"]).with(69);
    assert!(told.contains("notes.txt") && told.contains("not a database"), "{told}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("my notes"));
    let directory = Desk {
        address: folder.path().to_str().unwrap().to_owned(),
    };
    directory.run(&["doubts"]).with(69);
}

#[test]
fn a_schema_is_made_by_migrate_up_alone_and_its_script_does_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let desk = Desk {
        address: path.to_str().unwrap().to_owned(),
    };
    desk.run(&["migrate", "status"]).with(66);
    desk.run(&["doubts"]).with(66);
    desk.run(&["migrate", "up"]).with(64);
    assert!(!path.exists());

    // A database of somebody else's, with no table of ours.
    std::fs::write(&path, "").unwrap();
    let told = desk.run(&["doubts"]).with(78);
    assert!(
        told.contains("no tables of oneflight") && told.contains("migrate up"),
        "{told}"
    );
    let status = desk.json(&["migrate", "status", "--fail"]);
    assert_eq!(
        (&status["found"], status["missing"][0]["version"].as_i64()),
        (&0.into(), Some(1))
    );
    desk.run(&["migrate", "status", "--fail"]).with(1);
    desk.run(&["migrate", "up"]).with(64);
    let told = desk.run(&["migrate", "up", "--yes"]).well();
    assert!(told.contains("applied"), "{told}");
    desk.run(&["doubts"]).well();
    let status = desk.json(&["migrate", "status", "--fail"]);
    assert_eq!(
        (&status["found"], &status["missing"]),
        (&status["known"], &serde_json::json!([]))
    );

    // As the script makes it.
    let other = Desk {
        address: folder.path().join("other.db").to_str().unwrap().to_owned(),
    };
    let script = other.run(&["migrate", "print"]).well();
    execute(&other.address, script);
    other.run(&["doubts"]).well();
    assert_eq!(other.json(&["migrate", "status"]), status);
}

/// Executes a script in a file, which is made if it is missing.
fn execute(path: &str, script: String) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(script))
            .execute(&mut connection)
            .await
            .unwrap();
    });
}

#[test]
fn a_schema_that_a_later_version_upgraded_is_looked_into_unless_it_breaks_with_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let desk = Desk {
        address: path.to_str().unwrap().to_owned(),
    };
    desk.run(&["migrate", "up", "--yes"]).well();
    let known = desk.json(&["migrate", "status"])["known"].as_i64().unwrap();
    let upgrade = |version: i64, compatible_from: i64| {
        execute(
            &desk.address,
            format!(
                "INSERT INTO oneflight_migrations (version, description, applied_at, compatible_from)
                 VALUES ({version}, 'of tomorrow', 0, {compatible_from})"
            ),
        );
    };
    upgrade(known + 1, known);
    let told = desk.run(&["migrate", "status", "--fail"]).well();
    assert!(
        told.contains(&format!("it works with version {known} and newer")),
        "{told}"
    );
    desk.run(&["doubts"]).well();
    // There is nothing that it could apply.
    desk.run(&["migrate", "up"]).well();

    upgrade(known + 2, known + 2);
    let told = desk.run(&["migrate", "status"]).well();
    let needed = format!("needs version {} or newer", known + 2);
    assert!(told.contains(&needed) && told.contains("upgrade the command"), "{told}");
    let told = desk.run(&["doubts"]).with(78);
    assert!(told.contains(&needed), "{told}");
}

#[tokio::test]
async fn a_file_is_named_as_a_path_or_by_a_url() {
    let file = File::new().await;
    let _ = file.idem().run(id("a7f3"), |_| async { 7 }).await.unwrap();
    let path = file.path.to_str().unwrap();
    for address in [path.to_owned(), format!("sqlite://{path}"), format!("sqlite:{path}")] {
        let desk = Desk { address };
        assert!(desk.run(&["records", "show", "a7f3"]).well().contains("completed"));
    }
}

#[tokio::test]
async fn what_is_stored_cannot_command_the_terminal() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let answer = http::Response::new("\u{1b}]0;owned\u{7}");
    file.idem().resolve_answered(&id("a7f3"), answer).await.unwrap();
    let shown = file.desk.run(&["records", "show", "a7f3", "--body"]).well();
    assert!(shown.contains("owned") && !shown.contains('\u{1b}'), "{shown}");
}

#[tokio::test]
async fn a_name_that_the_store_does_not_have_is_told() {
    let file = File::new().await;
    for (name, variable) in [("schema", "ONEFLIGHT_SCHEMA"), ("prefix", "ONEFLIGHT_PREFIX")] {
        let option = format!("--{name}");
        let given = Ended::of(file.desk.command(&["doubts"]).env(variable, "shop").output().unwrap());
        for ended in [file.desk.run(&["doubts", &option, "shop"]), given] {
            let told = ended.with(64);
            assert!(told.contains(&option) && told.contains(variable), "{told}");
        }
        file.desk.run(&["doubts", &option, ""]).well();
    }
}

#[tokio::test]
async fn a_port_that_is_in_use_is_no_store_that_is_away() {
    let file = File::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = file.path.with_file_name("oneflight.toml");
    let settings =
        format!("listen = \"{address}\"\nupstream.url = \"http://127.0.0.1:1\"\nadmin.listen = \"127.0.0.1:0\"\n");
    std::fs::write(&config, settings).unwrap();
    let config = config.to_str().unwrap();
    for command in [&["dashboard", "--listen", &*address], &["proxy", "--config", config]] {
        let told = file.desk.run(command).with(71);
        assert!(told.contains(&address), "{told}");
    }
}
