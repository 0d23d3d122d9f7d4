//! Promise: a service that is told to stop leaves nothing half done, and does not stay for ever.

#![cfg(unix)]

mod checkout_support;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use checkout_support::{Request, Server, exchange};

fn tea() -> Request {
    Request::order().key("k-1").json(r#"{"item": "tea", "quantity": 2}"#)
}

/// Sends an order and leaves without an answer, when the order is on its way.
fn hang_up(server: &Server) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&tea().bytes()).unwrap();
    server.until_begun(1);
}

#[test]
fn a_client_that_waits_is_answered_first() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let mut server = Server::start(&db, 0, &["--delay-ms", "1500"]);
    let address = server.address;
    let client = thread::spawn(move || exchange(address, &tea().bytes()));
    server.until_begun(1);
    server.process.terminate();
    let answer = client.join().unwrap().unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(server.process.wait(Duration::from_secs(20)).success());
    assert_eq!(Server::start(&db, 0, &[]).orders(), 1);
}

#[test]
fn the_order_of_a_client_that_left_is_placed_first() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let mut server = Server::start(&db, 0, &["--delay-ms", "1500"]);
    hang_up(&server);
    server.process.terminate();
    assert!(server.process.wait(Duration::from_secs(20)).success());
    let server = Server::start(&db, 0, &[]);
    assert_eq!(server.orders(), 1);
    assert_eq!(server.send(&tea()).header("idempotency-origin"), Some("replayed"));
}

#[test]
fn what_does_not_end_is_given_up_and_goes_on_later() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let mut server = Server::start(&db, 0, &["--delay-ms", "60000"]);
    hang_up(&server);
    server.process.terminate();
    let told = Instant::now();
    let status = server.process.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(1), "after {:?}", told.elapsed());

    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    assert_eq!(server.orders(), 0);
    let answer = server.send(&tea());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(server.orders(), 1);
}
