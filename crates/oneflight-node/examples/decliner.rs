//! Declines a request for good, in a transaction on PostgreSQL: its row is rolled back, and its answer kept. Tells what it was
//! answered.
//!
//! Usage: decliner URL KEY

use std::env::args;

use oneflight::idempotency::Rollback;
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(decline())
}

async fn decline() -> Result<(), Failure> {
    let mut args = args().skip(1);
    let mut next = || args.next().ok_or("usage: decliner URL KEY");
    let (url, key) = (next()?, next()?);
    let idem = Idempotency::builder(PostgresStore::open(&url).await?).build();
    let id = RequestIdentity::new(Scope::new("declined"), key)?;
    let reply = idem
        .run_in_tx(id, |mut tx| async move {
            let insert = sqlx::query("INSERT INTO executed VALUES (1)");
            insert.execute(&mut *tx).await?;
            Err::<Value, _>(Rollback::Declined(json!({ "why": "sold out" })))
        })
        .await?;
    println!("{}", json!({ "declined": reply.is_declined() }));
    Ok(())
}
