//! One process of Rust in a storm of Node processes (`test/support/stormer.mjs` is the other kind): asks for each key many
//! times at once, and counts each execution by a line in a file that all processes append to. Tells that it is ready, and
//! begins with the first line of its input.
//!
//! Usage: stormer URL FILE KEYS DUPLICATES

use std::collections::BTreeMap;
use std::env::args;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use oneflight::store::DynStore;
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(storm())
}

async fn storm() -> Result<(), Failure> {
    let mut args = args().skip(1);
    let mut next = || args.next().ok_or("usage: stormer URL FILE KEYS DUPLICATES");
    let (url, file) = (next()?, next()?);
    let (keys, duplicates): (usize, usize) = (next()?.parse()?, next()?.parse()?);
    let store = match url.split_once(':') {
        Some(("sqlite", path)) => DynStore::new(SqliteStore::open(path).await?),
        Some(("redis", _)) => DynStore::new(RedisStore::open(&*url).await?),
        _ => DynStore::new(PostgresStore::open(&url).await?),
    };
    let idem = Idempotency::builder(store).wait(Duration::from_secs(60)).build();

    println!("{}", json!({ "ready": true }));
    std::io::stdin().read_line(&mut String::new())?;
    let mut calls = JoinSet::new();
    for ask in 0..keys * duplicates {
        let (idem, file, key) = (idem.clone(), file.clone(), (ask * 7) % keys);
        calls.spawn(async move {
            sleep(Duration::from_millis(4 * (ask as u64 % 50))).await;
            // The payload as Node takes it: members in order.
            let payload = format!(r#"{{"item":"tea","key":{key}}}"#);
            let id = RequestIdentity::new(Scope::new("storm"), format!("order-{key}"))?.with_fingerprint(payload);
            let work = move |_| async move {
                let executed = OpenOptions::new().create(true).append(true).open(file);
                executed.and_then(|mut file| file.write_all(format!("{key}\n").as_bytes()))?;
                sleep(Duration::from_millis(key as u64 % 7)).await;
                Ok::<_, std::io::Error>(json!({ "order": key, "by": "rust" }))
            };
            let reply = idem
                .try_run(id, |context| async move {
                    work(context)
                        .await
                        .map_err(|error| oneflight::idempotency::Unknown::because(error).into())
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
    let told: Value = json!({ "origins": origins, "wrong": wrong });
    println!("{told}");
    Ok(())
}
