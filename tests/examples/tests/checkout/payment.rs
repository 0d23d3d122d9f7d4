//! Promise: the payment is asked for outside of any transaction, and an order that broke off after it goes on from there.

use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::checkout_support::{Answer, Request, Server, exchange};
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::MemoryStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;

/// Sends an order from a thread of its own.
fn send(server: &Server, key: &str) -> JoinHandle<std::io::Result<Answer>> {
    let (address, bytes) = (server.address, Request::order().key(key).json(TEA).bytes());
    thread::spawn(move || exchange(address, &bytes))
}

async fn look_into(db: &Path) -> SqliteConnection {
    // Enough for the short writes of a service, and not for one that pays with the lock in its hand.
    let patience = Duration::from_millis(500);
    let options = SqliteConnectOptions::new().filename(db).busy_timeout(patience);
    options.connect().await.unwrap()
}

/// Waits until an order is on its way: claimed, and not recorded.
async fn under_way(connection: &mut SqliteConnection) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let claims: i64 = sqlx::query_scalar("SELECT count(*) FROM oneflight_records WHERE state = 'in_progress'")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        if claims > 0 {
            return;
        }
        assert!(Instant::now() < until, "no order is on its way");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nobody_waits_for_the_payment_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "2000"]);
    let mut connection = look_into(&db).await;
    let begun = Instant::now();
    let orders: Vec<_> = (0..10).map(|number| send(&server, &format!("k-{number}"))).collect();

    // While they are paid, any call may write.
    under_way(&mut connection).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lock = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    lock.rollback().await.unwrap();

    for order in orders {
        assert_eq!(order.join().unwrap().unwrap().status, 201);
    }
    // One after the other, it would be twenty seconds.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn killed_during_the_payment_and_asked_again_it_is_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let mut server = Server::start(&db, 0, &["--delay-ms", "20000"]);
    let mut connection = look_into(&db).await;
    let lost = send(&server, "k-1");
    under_way(&mut connection).await;
    server.process.kill();
    assert!(lost.join().unwrap().is_err(), "it was answered before the kill");

    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let answer = send(&server, "k-1").join().unwrap().unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("idempotency-origin"), Some("executed"));
    assert_eq!(server.orders(), 1);
}

#[tokio::test]
async fn a_row_whose_order_was_not_recorded_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let order = Request::order().key("k-1").json(TEA);
    let placed = server.send(&order).json();
    let mut connection = look_into(&db).await;
    let payment = "SELECT payment FROM orders";
    let paid: String = sqlx::query_scalar(payment).fetch_one(&mut connection).await.unwrap();

    // What a process leaves that dies between the row and the record of the whole order.
    let undone = sqlx::query(
        "UPDATE oneflight_records SET state = 'in_progress', lease_expires_at = 0,
            completed_at = NULL, expires_at = NULL, result = NULL
         WHERE scope = 'shop|route=POST /orders' AND key = 'k-1'",
    );
    assert_eq!(undone.execute(&mut connection).await.unwrap().rows_affected(), 1);

    let again = server.send(&order);
    assert_eq!(again.status, 201, "{again:?}");
    assert_eq!(again.json()["order_id"], placed["order_id"]);
    assert_eq!(server.orders(), 1);
    let still: String = sqlx::query_scalar(payment).fetch_one(&mut connection).await.unwrap();
    assert_eq!(still, paid);
}

#[tokio::test]
async fn an_order_that_cannot_be_written_is_paid_under_the_same_key_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let order = Request::order().key("k-1").json(TEA);
    let mut connection = look_into(&db).await;
    sqlx::raw_sql("ALTER TABLE orders RENAME TO elsewhere")
        .execute(&mut connection)
        .await
        .unwrap();
    let refused = server.send(&order);
    assert_eq!(refused.status, 503, "{refused:?}");
    let problem = refused.json();
    assert_eq!(problem["effect"], "nothing", "{problem}");
    assert!(!refused.body.contains("no such table"), "{problem}");

    sqlx::raw_sql("ALTER TABLE elsewhere RENAME TO orders")
        .execute(&mut connection)
        .await
        .unwrap();
    let answer = server.send(&order);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("idempotency-origin"), Some("executed"));
    let paid: String = sqlx::query_scalar("SELECT payment FROM orders")
        .fetch_one(&mut connection)
        .await
        .unwrap();

    // The provider's key follows from the identity alone: it is the same for every caller.
    let id = RequestIdentity::new(Scope::new("shop").route("POST /orders"), "k-1").unwrap();
    let anywhere = Idempotency::builder(MemoryStore::new()).build();
    let key = anywhere
        .run(id, |context| async move { context.downstream_key("payment") })
        .await
        .unwrap();
    assert_eq!(paid, format!("auth-{}", &key[..16]));
}
