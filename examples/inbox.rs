//! Two services pass messages, each with a database of its own. The shop's relay is killed again and again, after it has
//! delivered and before it has recorded it. Each order is booked once, since the books answer under the message's key.

use std::error::Error;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Outbox};
use oneflight::{Idempotency, Message, Relay, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

/// The books' side: the inbox is one call.
async fn book(books: &Idempotency<SqliteStore>, delivery: &Delivery) -> Result<(), Box<dyn Error + Send + Sync>> {
    let id = RequestIdentity::new(Scope::new("inbox").route(delivery.topic()), delivery.key())?;
    let order: i64 = serde_json::from_slice(delivery.payload())?;
    let booked = books.run_in_tx(id.with_fingerprint(delivery.payload()), move |mut tx| async move {
        sqlx::query("INSERT INTO bookings VALUES (?)")
            .bind(order)
            .execute(&mut *tx)
            .await?;
        Ok(())
    });
    let _ = booked.await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let shop = SqliteStore::open(folder.path().join("shop.db")).await?;
    let books = SqliteStore::open(folder.path().join("books.db")).await?;
    sqlx::query("CREATE TABLE bookings (number INTEGER NOT NULL)")
        .execute(books.pool())
        .await?;

    let outbox = Outbox::new(shop.clone());
    let mut tx = shop.pool().begin_with("BEGIN IMMEDIATE").await?;
    for order in 0..50_i64 {
        let _ = outbox
            .send(&mut tx, Message::new("order.placed", &order)?.ordering_key("orders"))
            .await?;
    }
    tx.commit().await?;

    let (idem, mut killed) = (Idempotency::builder(books.clone()).build(), 0);
    for life in 0.. {
        let idem = idem.clone();
        let target = move |delivery: Delivery| {
            let idem = idem.clone();
            async move { book(&idem, &delivery).await.map_err(DeliveryError::retry) }
        };
        let lease = Duration::from_millis(500);
        let relay = Relay::builder(shop.clone())
            .lease(lease)
            .target("order.*", target)
            .build()?;
        // Dropped in the middle, which is what a `kill -9` leaves behind; the last one may go on.
        let limit = Duration::from_millis(if life < 3 { 700 } else { 60_000 });
        let all = async {
            let count = "SELECT count(*) FROM oneflight_messages WHERE state <> 3";
            while sqlx::query_scalar::<_, i64>(count)
                .fetch_one(shop.pool())
                .await
                .is_ok_and(|left| left > 0)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(limit, relay.run(all)).await.is_ok() {
            break;
        }
        killed += 1;
    }
    let booked = "SELECT count(*), count(DISTINCT number) FROM bookings";
    let (rows, orders): (i64, i64) = sqlx::query_as(booked).fetch_one(books.pool()).await?;
    println!("{orders} orders, {rows} bookings, relay killed {killed} times");
    assert_eq!((rows, orders), (50, 50));
    Ok(())
}
