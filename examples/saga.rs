//! An order in steps: reserve the stock, charge the card, book the order. If the card is declined, the stock is released,
//! in a step as well. A machine goes off after the charge; another one goes on, although no client comes back.

use std::error::Error;
use std::time::Duration;

use oneflight::idempotency::{Steps, Stopped};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

/// Another service, which does once what it is asked for under one key. What it declines is an answer, not an error.
async fn ask(what: &str, item: String, key: String) -> Result<Result<String, String>, std::io::Error> {
    println!("{what} {item}, under {}", &key[..8]);
    match (what, item.as_str()) {
        ("charge", "gold") => Ok(Err("insufficient funds".to_owned())),
        _ => Ok(Ok(format!("{what}d"))),
    }
}

async fn place_order(item: String, steps: Steps<SqliteStore>) -> Result<Result<i64, String>, Stopped> {
    let reserved = steps.run("reserve", |step| ask("reserve", item.clone(), step.downstream_key()));
    if let Err(declined) = reserved.await? {
        return Ok(Err(declined));
    }
    let charged = steps.run("charge", |step| ask("charge", item.clone(), step.downstream_key()));
    if let Err(declined) = charged.await? {
        let released = steps.run("release", |step| ask("release", item.clone(), step.downstream_key()));
        released.await?.map_err(Stopped::because)?;
        return Ok(Err(declined));
    }
    if item == "tea" && steps.context().attempt() == 1 {
        return Err(Stopped::because("the machine goes off"));
    }
    let booked = steps.run_in_tx("book", |mut tx| async move {
        let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(item);
        Ok(insert.execute(&mut *tx).await?.last_insert_rowid())
    });
    Ok(Ok(booked.await?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("shop.db")).await?;
    sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        .execute(store.pool())
        .await?;
    let idem = Idempotency::builder(store).build().with_workflow("place_order");
    for item in ["gold", "tea"] {
        let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), item)?.with_fingerprint(item);
        let item = item.to_owned();
        match idem
            .run_steps(id, &item.clone(), |steps| place_order(item, steps))
            .await
        {
            Ok(reply) => println!("{:?}", reply.value()),
            Err(error) => println!("{error}"),
        }
    }

    // In every process of the service. It asks every 5 s unless told otherwise.
    let completer = idem
        .completer()
        .handler("place_order", place_order)
        .every(Duration::from_millis(10))
        .spawn()?;
    let ordered = "SELECT count(*) FROM orders";
    while sqlx::query_scalar::<_, i64>(ordered)
        .fetch_one(idem.store().pool())
        .await?
        == 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It waits for what it has begun.
    completer.stop().await;
    // The client asks again after all, with the same order.
    let tea = "tea".to_owned();
    let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "tea")?.with_fingerprint("tea");
    let reply = idem
        .run_steps(id, &tea.clone(), |steps| place_order(tea, steps))
        .await?;
    println!("{}: {:?}", reply.origin(), reply.value());
    Ok(())
}
