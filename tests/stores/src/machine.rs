//! What the figures were measured on, as far as the system tells.

use std::process::Command;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::{Failure, postgres};

/// How busy the machine is: a figure that was measured beside other work says less.
pub(crate) fn load() -> String {
    let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    loads.split(' ').next().unwrap_or("unknown").to_owned()
}

/// A paragraph.
pub(crate) async fn describe(load_before: &str) -> Result<String, Failure> {
    let mut sqlite = SqliteConnectOptions::new().in_memory(true).connect().await?;
    let (date, sqlite_version): (String, String) = sqlx::query_as("SELECT date('now'), sqlite_version()")
        .fetch_one(&mut sqlite)
        .await?;
    sqlite.close().await?;
    let server = postgres::server();
    let mut postgres = server.options(server.port()).connect().await?;
    let postgres_version: String = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut postgres)
        .await?;
    let redis = Command::new("redis-server").arg("--version").output()?;
    let redis = String::from_utf8_lossy(&redis.stdout);
    let redis_version = redis.split_whitespace().find_map(|word| word.strip_prefix("v="));

    let cores = std::thread::available_parallelism()?;
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unnamed processor".to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or_else(|| "unknown memory".to_owned(), |kib| format!("{} GiB", kib / (1 << 20)));
    Ok(format!(
        "Measured on {date}: {cores} cores of {processor}, {memory}; servers, service and clients on the same machine; load \
         average {load_before} before and {} after; PostgreSQL {postgres_version}, Redis {}, SQLite {sqlite_version}.\n",
        load(),
        redis_version.unwrap_or("of unknown version"),
    ))
}

/// What stands after a name and a colon.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
