//! The example's storm on four processes, over each store: what it prints is checked, not believed by its exit status.

use std::path::PathBuf;

use serde_json::Value;
use sqlx::ConnectOptions;
use tokio::process::Command;

use crate::figures::Figure;
use crate::{Extent, Failure, postgres, redis_server};

const KEYS: u64 = 100;
const PROCESSES: u64 = 4;

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let duplicates = extent.of(1_000, 50);
    // Both keep what they acknowledge, as they do unless told otherwise: PostgreSQL at once, Redis within a second.
    let database = postgres::Server::start("");
    let database = database.schema().await;
    let redis = redis_server::Server::start(&["--appendonly", "yes"]);
    let (postgres_url, redis_url) = (database.options.to_url_lossy().to_string(), redis.url());
    let places: [(&str, &[&str]); 3] = [
        ("SQLite", &[]),
        ("PostgreSQL", &["--store", "postgres", "--url", &postgres_url]),
        (
            "Redis, with the orders in an SQLite file",
            &["--store", "redis", "--url", &redis_url],
        ),
    ];
    let mut figures = Vec::new();
    for (name, place) in places {
        figures.push(storm(name, place, duplicates).await?);
    }
    Ok(figures)
}

async fn storm(name: &str, place: &[&str], duplicates: u64) -> Result<Figure, Failure> {
    let output = Command::new(program()?)
        .args(["storm", "--json", "--timeout", "900", "--concurrency", "128"])
        .args(["--keys", &KEYS.to_string(), "--duplicates", &duplicates.to_string()])
        .args(["--processes", &PROCESSES.to_string()])
        .args(place)
        .output()
        .await?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{name}: {error}: {complaints}"))?;
    let number = |field: &str| report[field].as_u64().unwrap_or(u64::MAX);
    let answered = ["executed", "collapsed", "replayed"].map(number).iter().sum::<u64>();
    let is_right = output.status.success()
        && number("services") == PROCESSES
        && number("requests") == KEYS * duplicates
        && answered == KEYS * duplicates
        && number("orders") == KEYS
        && ["keys_without", "keys_with_several", "errors", "mismatched"].map(number) == [0; 4];
    if !is_right {
        return Err(format!("the storm over {name} went wrong: {report} {complaints}").into());
    }
    Ok(Figure::held(
        format!("{name}: {duplicates} duplicates of each of {KEYS} keys, {PROCESSES} processes"),
        format!("{KEYS} executions, all answered"),
        format!(
            "{} orders, {answered} of {} answered rightly, {} hang-ups; {:.0} s, p99 {:.0} ms",
            number("orders"),
            KEYS * duplicates,
            number("hang_ups"),
            report["seconds"].as_f64().unwrap_or(f64::NAN),
            report["p99_ms"].as_f64().unwrap_or(f64::NAN),
        ),
    ))
}

/// The example, which stands beside this program.
fn program() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()?;
    let folder = here.parent().ok_or("this program stands in no directory")?;
    let program = folder
        .join("examples")
        .join(format!("checkout{}", std::env::consts::EXE_SUFFIX));
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "{} is missing: start this as bin/stores, which builds it",
            program.display()
        )
        .into()),
    }
}
