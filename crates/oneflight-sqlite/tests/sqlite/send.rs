//! Calls in a transaction compile, and run, wherever a future has to be `Send`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::borrow::Cow;

use oneflight::idempotency::{Error as IdempotencyError, Idempotency, Rollback, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::TransactionalStore;
use oneflight_sqlite::SqliteStore;

fn request(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant").route("POST /orders"), key).unwrap()
}

#[tokio::test]
async fn durable_calls_in_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("send.db")).await.unwrap();
    let idem = Idempotency::builder(store).build();
    tokio::spawn(async move {
        let item: &'static str = "umbrella";
        let reply = idem
            .run_in_tx(request("in-tx"), move |mut tx| async move {
                let asked = sqlx::query_scalar("SELECT ?").bind(item);
                let answer: String = asked.fetch_one(&mut *tx).await?;
                Ok(answer)
            })
            .await;
        assert_eq!(*reply.unwrap(), "umbrella");
        let refused = idem.run_in_tx_retrying(request("refused"), |_| async {
            Err(Rollback::Declined(Cow::<'static, str>::Borrowed("no")))
        });
        assert_eq!(*refused.await.unwrap(), "no");
        assert_eq!(*in_tx(&idem, &request("helper")).await.unwrap(), 1);
        assert_eq!(*in_tx_of_any_store(&idem, &request("any")).await.unwrap(), 1);
        let lent = idem.run_in_tx(request("lent"), |tx| async move { Ok(note(&tx).await) });
        assert_eq!(*lent.await.unwrap(), 1);
    })
    .await
    .unwrap();
}

async fn in_tx(
    idem: &Idempotency<SqliteStore>,
    id: &RequestIdentity,
) -> Result<oneflight::idempotency::Reply<u8>, IdempotencyError> {
    idem.run_in_tx(id.clone(), |_| async { Ok(1) }).await
}

async fn in_tx_of_any_store<S: TransactionalStore>(
    idem: &Idempotency<S>,
    id: &RequestIdentity,
) -> Result<oneflight::idempotency::Reply<u32>, IdempotencyError> {
    async fn attempts<S: TransactionalStore>(mut tx: Tx<S>) -> Result<u32, Rollback<u32>> {
        let _: &mut S::Connection = &mut tx;
        Ok(note_for_any_store(&tx).await)
    }
    idem.run_in_tx(id.clone(), attempts).await
}

/// Keeps a shared reference to the transaction while something else is awaited.
async fn note(tx: &Tx<SqliteStore>) -> u32 {
    let key = tx.downstream_key("note");
    tokio::task::yield_now().await;
    assert_eq!(tx.downstream_key("note"), key);
    tx.context().attempt()
}

async fn note_for_any_store<S: TransactionalStore>(tx: &Tx<S>) -> u32 {
    let _: &S::Connection = tx;
    tokio::task::yield_now().await;
    tx.context().attempt()
}
