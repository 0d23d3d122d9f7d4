//! Promise: with its records in Redis and its orders elsewhere, a service that dies between an order's row and its record
//! leaves an order that the next one finds.

use crate::server as redis_server;

use std::thread;
use std::time::{Duration, Instant};

use crate::checkout_support::{Request, Server, exchange, hold};
use sqlx::Connection;

/// Waits until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn an_order_without_its_record_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let records = redis_server::Server::start(&[]);
    let url = records.url();
    let place = ["--store", "redis", "--url", &url, "--delay-ms", "0"];
    let order = Request::order().key("k-1").json(r#"{"item": "tea", "quantity": 2}"#);

    // Redis stands still once the order is claimed, and no row is written before: then its row is, and its record is not.
    let mut first = Server::start(&db, 0, &place);
    let hold = hold(&db).await;
    let (address, bytes) = (first.address, order.bytes());
    let client = thread::spawn(move || exchange(address, &bytes));
    first.until_begun(1);
    records.signal("STOP");
    hold.close().await.unwrap();
    wait_until("a row", || first.orders() == 1);
    first.process.kill();
    assert!(client.join().unwrap().is_err(), "it cannot have been answered");
    records.signal("CONT");

    let second = Server::start(&db, 0, &place);
    let answer = second.send(&order);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["order_id"], 1, "{answer:?}");
    assert_eq!(second.orders(), 1);
}
