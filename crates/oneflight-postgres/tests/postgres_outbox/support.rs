//! A store with a relay whose target keeps what arrives.

use std::sync::Arc;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, RelayHandle, Sent};
use oneflight::store::outbox::{Beat, Cursor, OutboxStore, RelayToken, Shard};
use oneflight_postgres::PostgresStore;
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::{sleep, timeout};

use crate::postgres::Schema;

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) type Texts = Arc<Mutex<Vec<String>>>;

pub(crate) async fn store(schema: &Schema) -> PostgresStore {
    PostgresStore::from_pool(schema.pool(8)).await.unwrap()
}

pub(crate) fn relay(store: &PostgresStore, texts: &Texts) -> RelayHandle {
    let texts = Arc::clone(texts);
    let keep = move |delivery: Delivery| {
        texts
            .lock()
            .push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        async { Ok::<(), DeliveryError>(()) }
    };
    let builder = Relay::builder(store.clone()).lease(Duration::from_secs(1));
    builder.target("*", keep).build().unwrap().spawn()
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waits)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(crate) fn text(text: &str) -> Message {
    Message::text("note", text)
}

pub(crate) async fn send(store: &PostgresStore, message: Message) -> Sent {
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin().await.unwrap();
    let sent = outbox.send(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
    outbox.wake();
    sent
}

/// Keeps house until no message is left. What somebody used a moment ago is left alone for a while.
pub(crate) async fn room_is_free(store: &PostgresStore) {
    let keeps = async {
        while count(store.pool(), "SELECT count(*) FROM oneflight_messages").await > 0 {
            store.keep_house().await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, keeps).await.expect("room was not given back");
}

pub(crate) async fn count(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap()
}

pub(crate) fn beat(token: Option<RelayToken>, cursor: Option<&Cursor>, shards: &[Shard]) -> Beat {
    Beat {
        group: "default".into(),
        token,
        share: 64,
        gives_back: Vec::new(),
        dead: Vec::new(),
        cursor: cursor.cloned(),
        shards: shards.to_vec(),
    }
}
