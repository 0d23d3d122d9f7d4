//! Promise: 20,000 concurrent requests over 1,000 keys make 1,000 orders; and without `oneflight` they make more.

use crate::checkout_support::{Server, number, report, storm};

#[test]
fn twenty_thousand_requests_over_a_thousand_keys_make_a_thousand_orders() {
    let output = storm(&["--keys", "1000", "--duplicates", "20", "--json", "--seed", "1"]);
    let report = report(&output.stdout);
    assert_eq!(number(&report, "requests"), 20_000, "{report}");
    assert_eq!(number(&report, "keys"), 1_000, "{report}");
    assert_eq!(number(&report, "orders"), 1_000, "{report}");
    assert_eq!(number(&report, "errors"), 0, "{report}");
    assert_eq!(number(&report, "mismatched"), 0, "{report}");
    assert!(output.status.success(), "{report}");

    // Every request was answered, in one of three ways, and no order was placed in two answers. In fewer than one, if
    // the client that placed it had hung up.
    let [executed, collapsed, replayed] = ["executed", "collapsed", "replayed"].map(|name| number(&report, name));
    assert_eq!(executed + collapsed + replayed, 20_000, "{report}");
    assert!(executed <= 1_000, "{report}");

    // It was a storm indeed.
    for name in ["collapsed", "replayed", "hang_ups", "repeats"] {
        assert!(number(&report, name) > 0, "no {name} in {report}");
    }
    // Nothing on standard error that is not a terminal.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_naive_handler_orders_twice() {
    let output = storm(&[
        "--keys",
        "100",
        "--duplicates",
        "20",
        "--json",
        "--seed",
        "1",
        "--naive",
    ]);
    let report = report(&output.stdout);
    assert!(number(&report, "orders") > number(&report, "keys"), "{report}");
    assert!(number(&report, "mismatched") > 0, "{report}");
    // It is the demonstration, not a failure.
    assert!(output.status.success(), "{report}");
}

#[test]
fn the_same_storm_over_the_same_file_is_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let db = db.to_str().unwrap();
    let arguments = ["--keys", "50", "--duplicates", "4", "--json", "--seed", "9", "--db", db];
    let first = report(&storm(&arguments).stdout);
    let second = report(&storm(&arguments).stdout);
    assert_eq!(number(&first, "orders"), 50, "{first}");
    assert_eq!(number(&second, "orders"), 50, "{second}");
    assert_eq!(number(&second, "executed"), 0, "{second}");
    assert_eq!(number(&second, "mismatched"), 0, "{second}");
}

#[test]
fn a_storm_that_cannot_end_in_time_fails() {
    // Nothing listens here any more, and the clients wait for a service.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    drop(Server::start(&db, 0, &[]));
    let output = storm(&[
        "--keys",
        "2",
        "--duplicates",
        "3",
        "--json",
        "--timeout",
        "1",
        "--service",
        &url,
        "--db",
        db.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output.stdout);
    assert_eq!(number(&report, "requests"), 6, "{report}");
    assert_eq!(number(&report, "errors"), 6, "{report}");
    assert!(!output.stderr.is_empty());
}

#[test]
fn an_order_whose_clients_are_gone_is_counted_as_well() {
    // The clients give up after a second. The order is placed a second later, when the service has stopped.
    let slow = ["--delay-ms", "2000", "--slow-percent", "100", "--timeout", "1"];
    let output = storm(
        &[
            &["--keys", "1", "--duplicates", "1", "--json", "--seed", "2"],
            &slow[..],
        ]
        .concat(),
    );
    let report = report(&output.stdout);
    assert_eq!(number(&report, "errors"), 1, "{report}");
    assert_eq!(number(&report, "orders"), 1, "{report}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn only_who_leaves_before_the_answer_has_hung_up() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let storm_of = |concurrency: &str| {
        let arguments = ["--keys", "1", "--duplicates", "20", "--json", "--seed", "4"];
        let rude = ["--hang-up-percent", "100", "--repeat-percent", "0"];
        let slow = ["--delay-ms", "1000", "--slow-percent", "100"];
        let here = ["--db", db.to_str().unwrap(), "--concurrency", concurrency];
        let output = storm(&[&arguments[..], &rude, &slow, &here].concat());
        assert!(output.status.success(), "{output:?}");
        report(&output.stdout)
    };
    let slow = storm_of("20");
    assert_eq!(number(&slow, "hang_ups"), 20, "{slow}");
    // The same again, one by one: now the answer is there in no time, for most of them before they leave.
    let replayed = storm_of("1");
    assert!(number(&replayed, "hang_ups") < 20, "{replayed}");
}

#[test]
fn a_mistyped_database_is_told_before_the_storm_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &[]);
    let url = format!("http://{}", server.address);
    let mistyped = directory.path().join("shpo.db");
    let other = directory.path().join("notes.txt");
    std::fs::write(&other, "no database").unwrap();
    for db in [&mistyped, &other] {
        let db = db.to_str().unwrap();
        let output = storm(&["--keys", "1", "--duplicates", "1", "--service", &url, "--db", db]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(db), "{output:?}");
    }
    assert!(!mistyped.exists());
    assert_eq!(server.orders(), 0);
}

#[test]
fn a_storm_stays_on_this_machine() {
    for url in [
        "http://192.0.2.1:80",
        "https://127.0.0.1:80",
        "http://127.0.0.1",
        "shop",
    ] {
        let output = storm(&["--service", url, "--db", "unused.db"]);
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(output.stdout.is_empty());
    }
}
