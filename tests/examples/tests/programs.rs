//! Each small example runs, and ends as it says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// An example's program. `cargo test` builds it; `cargo test --test …` does not.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().find(|directory| directory.join("examples").is_dir());
    let program = profile
        .expect("the examples stand beside the tests")
        .join("examples")
        .join(name);
    assert!(
        program.is_file(),
        "run `cargo build --examples` first: {}",
        program.display()
    );
    program
}

fn prints(name: &str) -> String {
    let output = Command::new(program(name)).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_thousand_callers_that_miss_the_cache_ask_once() {
    // 900 of them, unless the machine is so slow that the answer is there before the impatient ones have left.
    let printed = prints("group");
    let answered: u32 = printed
        .strip_suffix(" answered, 1 look-up\n")
        .expect(&printed)
        .parse()
        .unwrap();
    assert!((900..=1_000).contains(&answered), "{printed}");
}

#[test]
fn an_event_that_is_sent_again_is_booked_once() {
    let printed = prints("webhook");
    assert!(printed.contains("(200, Executed)"), "{printed}");
    assert!(printed.ends_with("(200, Replayed), again\n"), "{printed}");
}

#[test]
fn a_job_that_two_machines_start_runs_once() {
    let printed = prints("job");
    assert_eq!(printed.matches("executed: 12 invoices").count(), 1, "{printed}");
    assert_eq!(printed.matches("replayed: 12 invoices").count(), 1, "{printed}");
    assert!(printed.ends_with("in doubt: 2026-11-29\n"), "{printed}");
}

#[test]
fn a_receipt_is_mailed_after_the_commit_and_never_for_what_was_rolled_back() {
    let printed = prints("outbox");
    let mailed = "mailed the receipt of order 1 at attempt 2\n";
    assert_eq!(printed.matches("mailed").count(), 1, "{printed}");
    assert!(
        printed.contains(mailed) && printed.contains("b8e4: rolled back"),
        "{printed}"
    );
}

#[test]
fn orders_that_pass_between_services_are_booked_once_though_the_relay_is_killed() {
    let printed = prints("inbox");
    assert!(printed.starts_with("50 orders, 50 bookings"), "{printed}");
}

#[test]
fn an_order_whose_machine_goes_off_is_finished_by_another_and_charged_once() {
    let printed = prints("saga");
    assert_eq!(printed.matches("charge tea").count(), 1, "{printed}");
    assert_eq!(printed.matches("reserve tea").count(), 1, "{printed}");
    assert_eq!(printed.matches("release gold").count(), 1, "{printed}");
    assert!(printed.contains("Err(\"insufficient funds\")\n"), "{printed}");
    assert!(printed.ends_with("replayed: Ok(1)\n"), "{printed}");
}

#[test]
fn a_store_of_ones_own_passes_the_suite() {
    assert_eq!(prints("store"), "executed: order 1\nreplayed: order 1\n");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_order_that_is_sent_again_is_placed_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Command::new(program("handler"));
    let service = service.current_dir(folder.path()).stdout(Stdio::piped());
    let mut service = Killed(service.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.split('/').nth(2).expect("it prints what to send").to_owned();

    let send = async |key: Option<&str>, body: &'static str| {
        let mut request =
            axum::http::Request::post(format!("http://{address}/orders")).header("Content-Type", "application/json");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let response = client
            .request(request.body(axum::body::Body::from(body)).unwrap())
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 10_000)
            .await
            .unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let tea = r#"{"item":"tea"}"#;
    let placed = (200, r#"{"order":1}"#.to_owned());
    let (first, twin) = tokio::join!(send(Some("\"a\""), tea), send(Some("\"a\""), tea));
    assert_eq!((&first, &twin), (&placed, &placed));
    assert_eq!(send(Some("\"a\""), tea).await, placed);
    assert_eq!(send(Some("\"b\""), tea).await.1, r#"{"order":2}"#);
    // Another payload under the same key, no key, and a body that is none: problems that say what to do.
    let coffee = send(Some("\"a\""), r#"{"item":"coffee"}"#).await;
    assert!(coffee.0 == 422 && coffee.1.contains("make a new key"), "{coffee:?}");
    assert_eq!(send(None, tea).await.0, 400);
    assert_eq!(send(Some("\"c\""), "tea").await.0, 400);
}
