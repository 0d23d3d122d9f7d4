//! An order service over SQLite: however often a client sends an order under one key, it is placed once.
//!
//! `cargo run --example handler`, and then what it prints.

use std::error::Error;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use oneflight::http::{self, Problem};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct NewOrder {
    item: String,
}

#[derive(Serialize, Deserialize, Clone)]
struct Placed {
    order: i64,
}

async fn place(
    State(idem): State<Idempotency<SqliteStore>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Placed>, Problem> {
    let key = http::require_key(&headers, &body)?;
    let order: NewOrder = serde_json::from_slice(&body).map_err(|error| Problem::malformed_body(error.to_string()))?;
    let id = RequestIdentity::new(Scope::new("shop").route("POST /orders"), key)?.with_fingerprint(&order.item);
    let reply = idem
        .run_in_tx(id, |mut tx| async move {
            let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(order.item);
            let order = insert.execute(&mut *tx).await?.last_insert_rowid();
            Ok(Placed { order }) // Row and record: one commit.
        })
        .await?;
    Ok(Json(reply.into_inner()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open("orders.db").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        .execute(store.pool())
        .await?;
    let app = Router::new()
        .route("/orders", post(place))
        .with_state(Idempotency::builder(store).build());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "curl -i http://{}/orders -H 'Idempotency-Key: \"c0ffee\"' -d '{{\"item\":\"tea\"}}'",
        listener.local_addr()?
    );
    axum::serve(listener, app).await?;
    Ok(())
}
