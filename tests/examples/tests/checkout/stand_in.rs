//! Promise: the stand-in of the payment API keeps idempotency keys as Stripe's API does, also if it is killed.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::checkout_support::{Answer, Request, StandIn, exchange};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const TEA: &str = r#"{"reference": "k-1", "authorisation": "auth-1", "cents": 500}"#;
const CAKE: &str = r#"{"reference": "k-2", "authorisation": "auth-2", "cents": 900}"#;

fn charge(body: &str) -> Request {
    Request::new("POST", "/v1/charges").json(body)
}

fn send(stand_in: &StandIn, request: &Request) -> Answer {
    exchange(stand_in.address, &request.bytes()).unwrap()
}

async fn charges(ledger: &Path) -> i64 {
    let mut ledger = SqliteConnectOptions::new().filename(ledger).connect().await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM charges");
    count.fetch_one(&mut ledger).await.unwrap()
}

#[tokio::test]
async fn a_key_has_one_charge_and_its_first_answer_also_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.db");
    let mut api = StandIn::start("payments", &ledger, 0);
    let first = send(&api, &charge(TEA).key("key-1"));
    assert_eq!(
        (first.status, first.header("idempotent-replayed")),
        (200, None),
        "{first:?}"
    );
    let again = send(&api, &charge(TEA).key("key-1"));
    assert_eq!(
        (again.status, again.header("idempotent-replayed")),
        (200, Some("true")),
        "{again:?}"
    );
    assert_eq!(again.body, first.body);

    api.process.kill();
    let api = StandIn::start("payments", &ledger, api.address.port());
    assert_eq!(send(&api, &charge(TEA).key("key-1")).body, first.body);
    assert_eq!(charges(&ledger).await, 1);
}

#[tokio::test]
async fn another_body_under_a_key_is_refused_and_another_key_is_another_charge() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.db");
    let api = StandIn::start("payments", &ledger, 0);
    let first = send(&api, &charge(TEA).key("key-1"));
    let other = send(&api, &charge(CAKE).key("key-1"));
    assert_eq!(other.status, 400, "{other:?}");
    assert_eq!(other.json()["error"]["type"], "idempotency_error");
    assert_eq!(charges(&ledger).await, 1);

    let second = send(&api, &charge(TEA).key("key-2"));
    assert_ne!(second.json()["id"], first.json()["id"]);
    // Without a key, it cannot know.
    for _ in 0..2 {
        assert_eq!(send(&api, &charge(TEA)).status, 200);
    }
    assert_eq!(charges(&ledger).await, 4);
}

#[tokio::test]
async fn a_key_whose_request_is_being_handled_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.db");
    let api = StandIn::start("payments", &ledger, 0);
    let options = SqliteConnectOptions::new().filename(&ledger);
    let mut writer = options.connect().await.unwrap();
    // The one that has the lock has a request stand still: whichever of the two comes first.
    let lock = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let (answers, answered) = mpsc::channel();
    for _ in 0..2 {
        let (address, bytes, answers) = (api.address, charge(TEA).key("key-1").bytes(), answers.clone());
        thread::spawn(move || answers.send(exchange(address, &bytes)).unwrap());
    }
    let twin = answered.recv().unwrap().unwrap();
    assert_eq!(twin.status, 409, "{twin:?}");
    assert_eq!(twin.json()["error"]["type"], "idempotency_key_in_use");
    lock.rollback().await.unwrap();
    assert_eq!(answered.recv().unwrap().unwrap().status, 200);
    assert_eq!(send(&api, &charge(TEA).key("key-1")).status, 200);
    assert_eq!(charges(&ledger).await, 1);
}
