//! A scheduled job that several machines start at the same minute, and that an impatient operator starts again: the
//! command runs once a day, and every start gets its output.

use std::error::Error;

use oneflight::{Idempotency, Reply, RequestIdentity, ResultExt, Scope};
use oneflight_sqlite::SqliteStore;
use tokio::process::Command;

async fn nightly(idem: &Idempotency<SqliteStore>, day: &str) -> Result<Reply<String>, Box<dyn Error>> {
    let id = RequestIdentity::new(Scope::new("jobs").route("send-invoices"), day)?;
    let reply = idem
        .try_run(id, |_| async {
            // Not found, not permitted: nothing was done, and the next start may try.
            let child = Command::new("echo")
                .arg("12 invoices")
                .stdout(std::process::Stdio::piped())
                .spawn();
            // Once it runs, a failure leaves open what was done: in doubt, for an operator to resolve.
            let output = child.or_not_done()?.wait_with_output().await.or_unknown()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .await?;
    Ok(reply)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("jobs.db"); // PostgresStore, where the machines share one.
    let here = Idempotency::builder(SqliteStore::open(&file).await?).build();
    let there = Idempotency::builder(SqliteStore::open(&file).await?).build();

    let (first, second) = tokio::join!(nightly(&here, "2026-11-28"), nightly(&there, "2026-11-28"));
    let (first, second) = (first?, second?);
    println!("{}: {}", first.origin(), first.trim());
    println!("{}: {}", second.origin(), second.trim());
    assert_ne!(first.origin(), second.origin());
    assert_eq!(*first, *second);
    Ok(())
}
