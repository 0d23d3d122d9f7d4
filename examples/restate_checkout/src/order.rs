//! An order, the keys under which it is known, and what is done for it. All of it is the same in both ways.

use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, SqlitePool};

/// What the client asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Order {
    pub(crate) item: String,
}

/// What the client gets.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Placed {
    pub(crate) order: i64,
}

/// An order and the keys of its steps: what is handed over.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Intent {
    pub(crate) order: Order,
    pub(crate) keys: Keys,
}

/// The keys under which the steps of an order are known to those who do them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Keys {
    pub(crate) reserve: String,
    pub(crate) charge: String,
    pub(crate) book: String,
    pub(crate) mail: String,
}

impl Intent {
    pub(crate) fn new(order: Order, key_of: impl Fn(&str) -> String) -> Self {
        let keys = Keys {
            reserve: key_of("reserve"),
            charge: key_of("charge"),
            book: key_of("book"),
            mail: key_of("mail"),
        };
        Self { order, keys }
    }
}

/// The warehouse, the payment provider and the mail server: each does once what it is asked for under one key.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
}

impl Outside {
    pub(crate) async fn ask(&self, what: &'static str, key: String, order: Order) -> Result<String, reqwest::Error> {
        let request = self.client.post(format!("{}/{what}", self.url)).json(&order);
        let answer = request.header("idempotency-key", key).send().await?;
        answer.error_for_status()?.text().await
    }
}

/// Writes the order's row. A row under this key is the order's own, from an attempt that could not tell.
pub(crate) async fn book(connection: &mut SqliteConnection, intent: Intent) -> Result<i64, sqlx::Error> {
    let book = "INSERT INTO orders (key, item) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET key = key RETURNING id";
    let booked = sqlx::query_scalar(book).bind(intent.keys.book).bind(intent.order.item);
    booked.fetch_one(connection).await
}

/// All orders' items.
pub(crate) async fn items(pool: &SqlitePool) -> Result<Vec<String>, sqlx::Error> {
    let items = sqlx::query_scalar("SELECT item FROM orders ORDER BY id");
    items.fetch_all(pool).await
}

/// Makes the table of the orders.
pub(crate) async fn create(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let create =
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, item TEXT NOT NULL)";
    sqlx::query(create).execute(pool).await.map(drop)
}
