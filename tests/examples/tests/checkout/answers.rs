//! Promise 20: every answer says whether it was executed, collapsed or replayed, and which request it belongs to.

use std::thread;

use crate::checkout_support::{Request, Server, exchange, hold};
use sqlx::Connection;

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;

#[test]
fn the_first_is_executed_and_the_next_replayed_however_they_spell_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let first = server.send(&Request::order().key("\"k-1\"").json(TEA));
    assert_eq!(first.status, 201, "{first:?}");
    let placed = first.json();
    assert_eq!(first.header("idempotency-origin"), Some("executed"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(placed["item"], "tea");
    assert_eq!(placed["quantity"], 2);

    for same in [
        Request::order().key("\"k-1\"").json(TEA),
        Request::order().key("k-1").json(r#"{"quantity":2,"item":"tea"}"#),
        Request::order().json(r#"{"item": "tea", "quantity": 2, "idempotency_key": "k-1"}"#),
        Request::order()
            .key("k-1")
            .json(r#"{"item": "tea", "quantity": 2, "idempotency_key": "k-1"}"#),
        Request::order().form("item=tea&quantity=2&idempotency_key=k-1"),
    ] {
        let answer = server.send(&same);
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.header("idempotency-origin"), Some("replayed"));
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
        assert_eq!(answer.body, first.body);
    }
    assert_eq!(server.orders(), 1);
}

#[tokio::test]
async fn those_that_come_meanwhile_are_collapsed() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let hold = hold(&db).await;
    let (address, bytes) = (server.address, Request::order().key("k-1").json(TEA).bytes());
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let bytes = bytes.clone();
            thread::spawn(move || exchange(address, &bytes).unwrap())
        })
        .collect();
    server.until_requests(10);
    hold.close().await.unwrap();
    let sources: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().unwrap().header("idempotency-origin").unwrap().to_owned())
        .collect();
    let count = |origin: &str| sources.iter().filter(|one| *one == origin).count();
    assert_eq!(count("executed"), 1, "{sources:?}");
    assert!(count("collapsed") > 0, "{sources:?}");
    assert_eq!(server.orders(), 1);
}

#[test]
fn the_record_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let order = Request::order().key("k-1").json(TEA);
    let first = Server::start(&db, 0, &["--delay-ms", "0"]).send(&order);
    let second = Server::start(&db, 0, &["--delay-ms", "0"]).send(&order);
    assert_eq!(second.header("idempotency-origin"), Some("replayed"));
    assert_eq!(second.body, first.body);
}

#[test]
fn the_correlation_id_is_the_clients_or_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let order = Request::order().key("k-1").json(TEA);
    let answer = server.send(&order.clone().header("X-Request-Id", "browser-17"));
    assert_eq!(answer.header("x-request-id"), Some("browser-17"));
    let answer = server.send(&order);
    assert_eq!(answer.header("x-correlation-id").unwrap().len(), 36);
}
