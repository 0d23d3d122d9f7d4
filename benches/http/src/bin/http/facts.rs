//! What a figure is worth nothing without: when, on which machine, built by what, against which versions.

use std::fs;
use std::thread::available_parallelism;
use std::time::SystemTime;

use cargo_lock::Lockfile;

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../../../../../Cargo.lock");
const PACKAGES: [&str; 7] = [
    "axum",
    "hyper",
    "tokio",
    "axum-idempotent",
    "ruts",
    "tower-cookies",
    "oneflight",
];

/// The circumstances of a run, a line each.
pub struct Facts(pub Vec<(&'static str, String)>);

impl Facts {
    /// Of now.
    pub fn gather() -> Self {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let cores = available_parallelism().map_or(1, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load
            .split(' ')
            .next()
            .filter(|load| !load.is_empty())
            .unwrap_or("unknown");
        Self(vec![
            ("date", date.replace('T', " ").replace('Z', " UTC")),
            ("machine", format!("{cores} cores, {}", processor())),
            (
                "load before",
                format!("{load} (of other programs; a quiet machine has about 0)"),
            ),
            ("rustc", rustc_version_runtime::version().to_string()),
            ("versions", versions()),
        ])
    }
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut names = info
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = names.next();
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn versions() -> String {
    let lock: Lockfile = LOCK.parse().expect("the lock file that cargo wrote");
    let versions = PACKAGES.map(|name| {
        let packages = lock.packages.iter().filter(|package| package.name.as_str() == name);
        let version = packages.map(|package| &package.version).max();
        format!("{name} {}", version.expect("a package of the benchmarks is not locked"))
    });
    versions.join(", ")
}
