//! Promise: two services on one database file place each order once, whichever of them is asked.

mod checkout_support;

use std::process::{Command, Stdio};
use std::time::Duration;

use checkout_support::{Guarded, Server, number, program, report};

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
                .args(["--url", &format!("http://{}", server.address)])
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
