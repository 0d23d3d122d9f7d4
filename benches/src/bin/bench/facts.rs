//! What a figure is worth nothing without: when, on which machine, built by what, against which versions. None of it is
//! typed by hand.

use cargo_lock::Lockfile;
use serde::Serialize;
use std::fs;
use std::thread::available_parallelism;
use std::time::SystemTime;

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../../../../Cargo.lock");
const MANIFEST: &str = include_str!("../../../../Cargo.toml");
const PACKAGES: [&str; 11] = [
    "dashmap",
    "tokio",
    "futures",
    "uniflight",
    "singleflight-async",
    "async_singleflight",
    "rs-singleflight",
    "request_coalescer",
    "moka",
    "quick_cache",
    "oneflight",
];

/// The circumstances of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// When it began, in UTC.
    pub date: String,
    /// The processor's name.
    pub processor: String,
    /// How many cores the program may use.
    pub cores: usize,
    /// How many tasks wanted a core during the minute before, from everything on the machine.
    pub load: String,
    /// The compiler.
    pub rustc: String,
    /// What the release profile sets.
    pub profile: String,
    /// The crates that are measured, and their versions.
    pub versions: Vec<(String, String)>,
}

impl Facts {
    /// Of now.
    pub fn gather() -> Self {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            date: date.replace('T', " ").replace('Z', " UTC"),
            processor: processor(),
            cores: available_parallelism().map_or(1, usize::from),
            load: load(),
            rustc: rustc_version_runtime::version().to_string(),
            profile: profile(),
            versions: versions(),
        }
    }

    /// One line for each fact.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        vec![
            ("date", self.date.clone()),
            ("machine", format!("{} cores, {}", self.cores, self.processor)),
            (
                "load before",
                format!("{} (of other programs; a quiet machine has about 0)", self.load),
            ),
            ("rustc", self.rustc.clone()),
            ("profile", self.profile.clone()),
            ("versions", versions.join(", ")),
        ]
    }
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn load() -> String {
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    loads
        .split(' ')
        .next()
        .filter(|load| !load.is_empty())
        .unwrap_or("unknown")
        .to_owned()
}

/// The lines of the release profile in the workspace's manifest; cargo's own values for the rest.
fn profile() -> String {
    let lines = MANIFEST
        .lines()
        .skip_while(|line| line.trim() != "[profile.release]")
        .skip(1);
    let set: Vec<_> = lines.take_while(|line| !line.trim().is_empty()).collect();
    format!(
        "release, the same for all: {}; else as cargo has it (opt-level 3, thin local LTO)",
        set.join(", ")
    )
}

fn versions() -> Vec<(String, String)> {
    let lock: Lockfile = LOCK.parse().expect("the lock file that cargo wrote");
    let newest = |name: &&str| {
        let packages = lock.packages.iter().filter(|package| package.name.as_str() == *name);
        let version = packages.map(|package| &package.version).max();
        let version = version.expect("a package of the benchmarks is not locked");
        ((*name).to_owned(), version.to_string())
    };
    PACKAGES.iter().map(newest).collect()
}
