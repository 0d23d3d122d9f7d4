//! One process of Rust in a storm of transactions on PostgreSQL (`test/support/transactor.mjs` is the other kind): asks for each
//! key many times at once, and counts each execution by a row of the same commit. Tells that it is ready, and begins with the
//! first line of its input.
//!
//! Usage: transactor URL KEYS DUPLICATES

use std::collections::BTreeMap;
use std::env::args;
use std::time::Duration;

use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(storm())
}

async fn storm() -> Result<(), Failure> {
    let mut args = args().skip(1);
    let mut next = || args.next().ok_or("usage: transactor URL KEYS DUPLICATES");
    let url = next()?;
    let (keys, duplicates): (i32, i32) = (next()?.parse()?, next()?.parse()?);
    let store = PostgresStore::open(&url).await?;
    let idem = Idempotency::builder(store).wait(Duration::from_secs(60)).build();

    println!("{}", json!({ "ready": true }));
    std::io::stdin().read_line(&mut String::new())?;
    let mut calls = JoinSet::new();
    for ask in 0..keys * duplicates {
        let (idem, key) = (idem.clone(), (ask * 7) % keys);
        calls.spawn(async move {
            sleep(Duration::from_millis(4 * (ask as u64 % 50))).await;
            // The payload as Node takes it: members in order.
            let payload = format!(r#"{{"item":"tea","key":{key}}}"#);
            let id = RequestIdentity::new(Scope::new("storm"), format!("order-{key}"))?.with_fingerprint(payload);
            let reply = idem
                .run_in_tx(id, move |mut tx| async move {
                    let insert = sqlx::query("INSERT INTO executed VALUES ($1)").bind(key);
                    insert.execute(&mut *tx).await?;
                    sleep(Duration::from_millis(key as u64 % 7)).await;
                    Ok(json!({ "order": key, "by": "rust" }))
                })
                .await?;
            let is_wrong = reply.value()["order"] != json!(key);
            Ok::<_, Failure>((reply.origin().as_str(), is_wrong))
        });
    }
    let mut origins: BTreeMap<&str, u32> = [("collapsed", 0), ("executed", 0), ("replayed", 0)].into();
    let mut wrong = 0;
    while let Some(called) = calls.join_next().await {
        let (origin, is_wrong) = called??;
        *origins.entry(origin).or_default() += 1;
        wrong += u32::from(is_wrong);
    }
    println!("{}", json!({ "origins": origins, "wrong": wrong }));
    Ok(())
}
