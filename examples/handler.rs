//! An order service over SQLite: however often a client sends an order under one key, it is placed once.
//!
//! `cargo run --example handler`, and then what it prints.

use std::error::Error;

use axum::routing::post;
use axum::{Json, Router};
use oneflight::http::layer::{Failure, IdempotencyLayer};
use oneflight::{Idempotency, Tx};
use oneflight_sqlite::SqliteStore;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct NewOrder {
    item: String,
}

#[derive(Serialize)]
struct Placed {
    order: i64,
}

async fn place(mut tx: Tx<SqliteStore>, Json(order): Json<NewOrder>) -> Result<Json<Placed>, Failure> {
    let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(order.item);
    let order = insert.execute(&mut *tx).await?.last_insert_rowid();
    Ok(Json(Placed { order })) // Row and recorded answer: one commit.
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open("orders.db").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        .execute(store.pool())
        .await?;
    let idem = Idempotency::builder(store).build();
    let layer = IdempotencyLayer::transactional(idem).required().unscoped(); // With accounts: `.scope(…)`.
    let app = Router::new().route("/orders", post(place)).route_layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "curl -i http://{}/orders --json '{{\"item\":\"tea\"}}' -H 'Idempotency-Key: \"c0ffee\"'",
        listener.local_addr()?
    );
    axum::serve(listener, app).await?;
    Ok(())
}
