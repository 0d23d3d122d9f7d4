//! The program that was built, over a store of the test's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take that does happen, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Desk {
    pub store: String,
    schema: Option<String>,
    prefix: Option<String>,
    folder: TempDir,
}

/// What a command came to.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

impl Desk {
    /// Over a file that is not there yet.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jobs.db").to_str().unwrap().to_owned();
        Self::of(store, folder)
    }

    fn of(store: String, folder: TempDir) -> Self {
        Self {
            store,
            schema: None,
            prefix: None,
            folder,
        }
    }

    /// Over a new schema, without tables so far.
    pub async fn postgres(server: &crate::postgres::Server) -> Self {
        let schema = server.schema().await.name;
        Self::postgres_at(server.port(), Some(&schema))
    }

    pub fn postgres_at(port: u16, schema: Option<&str>) -> Self {
        let user = crate::postgres::SUPERUSER;
        let store = format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=disable");
        let schema = schema.map(str::to_owned);
        Self {
            schema,
            ..Self::of(store, tempfile::tempdir().unwrap())
        }
    }

    /// The same store, as another user.
    pub fn by(&self, user: &str) -> Self {
        Self {
            schema: self.schema.clone(),
            prefix: self.prefix.clone(),
            ..Self::of(
                self.store.replace(crate::postgres::SUPERUSER, user),
                tempfile::tempdir().unwrap(),
            )
        }
    }

    pub fn redis(server: &crate::redis::Server) -> Self {
        Self {
            prefix: Some(crate::redis::prefix()),
            ..Self::of(server.url(), tempfile::tempdir().unwrap())
        }
    }

    pub fn schema(&self) -> &str {
        self.schema.as_deref().unwrap()
    }

    pub fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap()
    }

    /// A file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, with no terminal to ask on.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        // A shell may have begun the tests in the background, and so with signals that are ignored.
        let mut command = Command::new("env");
        command
            .arg("--default-signal")
            .arg(env!("CARGO_BIN_EXE_oneflight"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("ONEFLIGHT_STORE", &self.store)
            .envs(self.schema.iter().map(|schema| ("ONEFLIGHT_SCHEMA", schema)))
            .envs(self.prefix.iter().map(|prefix| ("ONEFLIGHT_PREFIX", prefix)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs it, and fails the test if it fails.
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    }

    /// Runs it, and reads what it answers as JSON.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> serde_json::Value {
        let ran = self.ok(arguments);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// `exec` of a shell's script, whose `$0` is this file.
    pub fn job(&self, options: &str, script: &str, file: &Path) -> Command {
        let mut command = self.command(["exec"]);
        command
            .args(options.split_whitespace())
            .args(["--", "sh", "-c", script])
            .arg(file);
        command
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }
}

pub fn ran(command: &mut Command) -> Ran {
    command.output().unwrap().into()
}

/// Waits for the end of a program.
pub fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

/// Waits until there is something in a file, and returns it.
pub fn awaited(file: &Path) -> String {
    until(&format!("there is something in {}", file.display()), || {
        std::fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'))
    })
}

/// Waits for something.
pub fn until<T>(what: &str, mut looked: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = looked() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn kill(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), signal).unwrap();
}
