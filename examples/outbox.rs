//! An order and its receipt: the mail leaves after the commit, under one key however often it is tried, and not at all if
//! the order is rolled back.

use std::error::Error;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Retry, TargetOptions};
use oneflight::{Idempotency, Message, Relay, RequestIdentity, Rollback, Scope};
use oneflight_sqlite::SqliteStore;

/// A mail server that is busy at first.
async fn mail(delivery: Delivery) -> Result<(), DeliveryError> {
    if delivery.attempt() == 1 {
        return Err(DeliveryError::retry("mailbox busy"));
    }
    let order: i64 = delivery.json()?;
    println!("mailed the receipt of order {order} at attempt {}", delivery.attempt());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("orders.db")).await?; // or `PostgresStore`
    sqlx::query("CREATE TABLE orders (item TEXT NOT NULL)")
        .execute(store.pool())
        .await?;
    let options = TargetOptions::new().retry(Retry::new().first_pause(Duration::from_millis(100)));
    let relay = Relay::builder(store.clone())
        .target_with("mail.*", mail, options)
        .build()?
        .spawn();

    let idem = Idempotency::builder(store).build();
    for (key, pays) in [("a7f3", true), ("b8e4", false)] {
        let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key)?;
        let placed = idem.run_in_tx(id, move |mut tx| async move {
            let insert = sqlx::query("INSERT INTO orders VALUES ('tea')")
                .execute(&mut *tx)
                .await?;
            let order = insert.last_insert_rowid();
            let _ = tx.send(Message::new("mail.receipt", &order)?).await?; // the same commit
            if pays {
                Ok(order)
            } else {
                Err(Rollback::failed("no money"))
            }
        });
        println!("{key}: {}", placed.await.map_or("rolled back", |_| "placed"));
    }

    while relay.health().delivered < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    relay.stop().await;
    Ok(())
}
