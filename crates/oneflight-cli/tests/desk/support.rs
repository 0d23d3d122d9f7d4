//! A desk over a file, and a shell at it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use serde_json::Value;
use tempfile::TempDir;

/// The program.
pub fn oneflight() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneflight"));
    for name in ["ONEFLIGHT_STORE", "ONEFLIGHT_SCHEMA", "ONEFLIGHT_PREFIX"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// How a command has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub told: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it has ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            told: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it has printed, if it has ended well.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// What it has said, if it has ended with this code.
    #[track_caller]
    pub fn with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.told
    }
}

/// A desk over a store at an address.
pub struct Desk {
    pub address: String,
}

impl Desk {
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(&[args, &["--json"]].concat());
        assert!([0, 1].contains(&ended.code), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = oneflight();
        command.args(args).env("ONEFLIGHT_STORE", &self.address);
        command
    }

    /// The same on a terminal, with this typed there.
    pub fn on_a_terminal(&self, args: &[&str], typed: &str) -> Ended {
        let mut terminal = self.terminal(args);
        terminal.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
        Ended::of(terminal.wait_with_output().unwrap())
    }

    /// The same on a terminal.
    pub fn terminal(&self, args: &[&str]) -> Child {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
        let words: Vec<_> = [&[env!("CARGO_BIN_EXE_oneflight")], args]
            .concat()
            .into_iter()
            .map(quoted)
            .collect();
        Command::new("script")
            .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
            .env("ONEFLIGHT_STORE", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is `script` of util-linux")
    }
}

/// A store in a file, and a desk over it.
pub struct File {
    pub desk: Desk,
    pub store: SqliteStore,
    pub path: PathBuf,
    _folder: TempDir,
}

impl File {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let desk = Desk {
            address: path.to_str().unwrap().to_owned(),
        };
        Self {
            desk,
            store,
            path,
            _folder: folder,
        }
    }

    pub fn idem(&self) -> Idempotency<SqliteStore> {
        Idempotency::builder(self.store.clone()).build()
    }
}

pub const SCOPE: &str = "tenant-7|route=POST /orders";

/// A request of the scope [`SCOPE`].
pub fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// Leaves a request in doubt.
pub async fn leave_in_doubt<S: oneflight::store::Store + Clone>(store: &S, id: RequestIdentity) {
    let idem = Idempotency::builder(store.clone()).settle(Duration::ZERO).build();
    let work = |_| async { Err::<(), _>(oneflight::idempotency::Unknown::because("the line broke off").into()) };
    idem.try_run(id.clone(), work).await.unwrap_err();
    until(async || {
        let record = idem.status(&id).await.unwrap().expect("there is a record");
        record.lease_remaining().expect("it is not completed").is_zero()
    })
    .await;
}

/// Waits for a condition.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < patience, "it does not come to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
