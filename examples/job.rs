//! A scheduled job that several machines start at the same minute, and that an impatient operator starts again: the
//! command runs once a day, and every start gets its output.

use std::error::Error;
use std::process::Stdio;
use std::time::Duration;

use oneflight::{Idempotency, Reply, RequestIdentity, ResultExt, Scope};
use oneflight_sqlite::SqliteStore;
use tokio::process::Command;

async fn nightly(idem: &Idempotency<SqliteStore>, day: &str, command: &str) -> Result<Reply<String>, Box<dyn Error>> {
    let id = RequestIdentity::new(Scope::new("jobs").route("send-invoices"), day)?;
    let mut command = Command::new(command);
    command.arg("12 invoices").stdout(Stdio::piped());
    let reply = idem
        .try_run(id, |_| async move {
            // Not found, not permitted: nothing was done, and the next start may try.
            let child = command.spawn().or_not_done()?;
            // Once the command runs, a failure leaves open what it did: in doubt.
            let output = child.wait_with_output().await.or_unknown()?;
            if !output.status.success() {
                return Err(output.status.to_string()).or_unknown()?;
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .await?;
    Ok(reply)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("jobs.db"); // `PostgresStore`, if the machines share no file.
    // A start waits for the one that runs, as long as the job may take.
    let hour = Duration::from_secs(60 * 60);
    let here = Idempotency::builder(SqliteStore::open(&file).await?).wait(hour).build();
    let there = Idempotency::builder(SqliteStore::open(&file).await?).wait(hour).build();

    let (first, second) = tokio::join!(
        nightly(&here, "2026-11-28", "echo"),
        nightly(&there, "2026-11-28", "echo")
    );
    for reply in [first?, second?] {
        println!("{}: {}", reply.origin(), reply.trim());
    }

    // A job that failed half-way is in doubt, and not started again by itself. An operator looks at what it did, and says
    // so: `resolve(&doubtful.id, Resolution::Rerun)`, or `Resolution::completed(&output)`.
    assert!(nightly(&here, "2026-11-29", "false").await.is_err());
    for doubtful in here.in_doubt(10, None).await? {
        println!("in doubt: {}", doubtful.id.key());
    }
    Ok(())
}
