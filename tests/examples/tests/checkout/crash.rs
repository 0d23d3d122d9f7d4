//! Promise: a service that is killed in mid-storm, and started again on the same file, has placed each order once.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::checkout_support::{Guarded, Server, number, program, report};

#[test]
fn kill_nine_in_mid_storm_leaves_one_order_per_key() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let pace = ["--delay-ms", "2", "--slow-percent", "50"];
    let mut server = Server::start(&db, 0, &pace);
    let port = server.address.port();

    let mut storm = Guarded::spawn(
        Command::new(program())
            .args(["storm", "--keys", "1000", "--duplicates", "20", "--json"])
            .args(["--seed", "3", "--timeout", "240"])
            .args(["--service", &format!("http://{}", server.address)])
            .arg("--db")
            .arg(&db)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let mut stdout = storm.take_stdout();

    for orders in [150, 400, 700] {
        let until = Instant::now() + Duration::from_secs(120);
        while server.orders() < orders {
            assert!(!storm.has_ended(), "the storm ended before {orders} orders");
            assert!(Instant::now() < until, "never saw {orders} orders");
            sleep(Duration::from_millis(2));
        }
        server.process.kill();
        assert!(!storm.has_ended(), "the storm ended before the kill");
        sleep(Duration::from_millis(100));
        server = Server::start(&db, port, &pace);
        assert!(server.orders() >= orders, "orders were lost");
    }

    let mut printed = Vec::new();
    stdout.read_to_end(&mut printed).unwrap();
    let status = storm.wait(Duration::from_secs(10));
    let report = report(&printed);
    assert_eq!(number(&report, "requests"), 20_000, "{report}");
    assert_eq!(number(&report, "orders"), 1_000, "{report}");
    assert_eq!(number(&report, "keys_with_several"), 0, "{report}");
    assert_eq!(number(&report, "errors"), 0, "{report}");
    assert_eq!(number(&report, "mismatched"), 0, "{report}");
    // The crashes were felt: requests broke off, and were repeated.
    assert!(number(&report, "retries") > 0, "{report}");
    assert!(status.success(), "{report}");
    assert_eq!(server.orders(), 1_000);
}
