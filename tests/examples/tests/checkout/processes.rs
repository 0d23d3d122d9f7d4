//! Promise: several services on one store place each order once, whichever of them is asked, and whichever store it is.

use crate::postgres;
use crate::server as redis;

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::checkout_support::{Guarded, Server, number, program, report, storm};
use serde_json::Value;

#[test]
fn two_processes_share_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let pace = ["--delay-ms", "2", "--slow-percent", "50"];
    let servers = [Server::start(&db, 0, &pace), Server::start(&db, 0, &pace)];

    // The same seed is the same keys: every order is sent to both.
    let mut storms = servers.each_ref().map(|server| {
        Guarded::spawn(
            Command::new(program())
                .args(["storm", "--keys", "200", "--duplicates", "10", "--json"])
                .args(["--seed", "5", "--timeout", "120"])
                .args(["--service", &format!("http://{}", server.address)])
                .arg("--db")
                .arg(&db)
                .stdout(Stdio::piped()),
        )
    });
    let mut executed = 0;
    for storm in &mut storms {
        let mut printed = Vec::new();
        std::io::Read::read_to_end(&mut storm.take_stdout(), &mut printed).unwrap();
        let status = storm.wait(Duration::from_secs(10));
        let report = report(&printed);
        assert_eq!(number(&report, "errors"), 0, "{report}");
        assert_eq!(number(&report, "mismatched"), 0, "{report}");
        executed += number(&report, "executed");
        // Each of them has sent every order, so that at its end there is one of each.
        assert_eq!(number(&report, "orders"), 200, "{report}");
        assert!(status.success(), "{report}");
    }
    assert!(executed <= 200, "{executed}");
    for server in &servers {
        assert_eq!(server.orders(), 200);
    }
}

const KEYS: u64 = 30;
const DUPLICATES: u64 = 40;

/// A storm on three services in processes of their own: its report, and whether it was well.
fn storm_on_three(place: &[&str]) -> (Value, bool) {
    let (keys, duplicates) = (KEYS.to_string(), DUPLICATES.to_string());
    let size = ["--keys", &keys, "--duplicates", &duplicates, "--processes", "3"];
    let output = storm(&[&size[..], &["--json", "--seed", "7"], place].concat());
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "{complaints}");
    eprintln!("{complaints}");
    (report(&output.stdout), output.status.success())
}

fn assert_one_order_for_each_key((report, success): (Value, bool), store: &str) {
    assert_eq!(report["store"], store, "{report}");
    assert_eq!(number(&report, "services"), 3, "{report}");
    assert_eq!(number(&report, "requests"), KEYS * DUPLICATES, "{report}");
    assert_eq!(number(&report, "orders"), KEYS, "{report}");
    assert_eq!(number(&report, "keys_without"), 0, "{report}");
    assert_eq!(number(&report, "errors"), 0, "{report}");
    assert_eq!(number(&report, "mismatched"), 0, "{report}");
    let [executed, collapsed, replayed] = ["executed", "collapsed", "replayed"].map(|name| number(&report, name));
    assert_eq!(executed + collapsed + replayed, KEYS * DUPLICATES, "{report}");
    assert!(executed <= KEYS, "{report}");
    assert!(success, "{report}");
}

/// A database of a test's own on the private server.
pub(crate) async fn database() -> String {
    let schema = postgres::server().schema().await;
    let (user, port) = (schema.options.get_username(), schema.options.get_port());
    format!(
        "postgres://{user}@127.0.0.1:{port}/postgres?options[search_path]={}",
        schema.name
    )
}

#[test]
fn a_storm_on_several_processes_over_sqlite_makes_one_order_for_each_key() {
    assert_one_order_for_each_key(storm_on_three(&[]), "sqlite");
}

#[tokio::test]
async fn a_storm_on_several_processes_over_postgres_makes_one_order_for_each_key() {
    let url = database().await;
    let storm = storm_on_three(&["--store", "postgres", "--url", &url]);
    assert_one_order_for_each_key(storm, "postgres");
}

#[test]
fn a_storm_on_several_processes_over_redis_makes_one_order_for_each_key() {
    let url = redis::server().url();
    assert_one_order_for_each_key(storm_on_three(&["--store", "redis", "--url", &url]), "redis");
}

#[tokio::test]
async fn without_oneflight_several_processes_order_twice() {
    let url = database().await;
    let (report, _) = storm_on_three(&["--store", "postgres", "--url", &url, "--naive"]);
    assert!(number(&report, "orders") > KEYS, "{report}");
    assert!(number(&report, "mismatched") > 0, "{report}");
}

#[test]
fn a_place_that_does_not_add_up_is_refused_before_anything_is_made() {
    let postgres = "postgres://nobody@127.0.0.1:1/nothing";
    for (place, wanted, status) in [
        (&["--store", "postgres"][..], "--url", 2),
        (&["--store", "redis"], "--url", 2),
        (&["--url", postgres], "--store", 1),
        (
            &["--store", "postgres", "--url", postgres, "--db", "unused.db"],
            "--db",
            1,
        ),
        (&["--store", "postgres", "--url", "redis://127.0.0.1/"], "", 1),
        (&["--service", "http://127.0.0.1:1"], "--db", 1),
    ] {
        let output = storm(&[&["--keys", "1", "--duplicates", "1"], place].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{place:?}: {said}");
        assert!(said.contains(wanted), "{place:?}: {said}");
        assert!(output.stdout.is_empty(), "{place:?}");
    }
    assert!(!std::path::Path::new("unused.db").exists());
}

#[test]
fn a_service_that_cannot_start_ends_the_storm() {
    let nobody = "postgres://nobody:secret@127.0.0.1:1/nothing";
    let output = storm(&["--processes", "2", "--store", "postgres", "--url", nobody]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:1"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
