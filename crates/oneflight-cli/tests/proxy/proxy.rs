//! The proxy as a process of its own, and what it says.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Answer, get, post};

/// Whatever a test waits for comes long before this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a configuration and a store.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("oneflight.toml")
    }

    pub fn store(&self) -> String {
        self.path().join("records.db").display().to_string()
    }

    /// Writes the configuration: these backends, and what more is said.
    pub fn write(&self, upstreams: &[SocketAddr], more: &str) {
        let urls: Vec<String> = upstreams.iter().map(|address| format!("http://{address}")).collect();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nupstream.url = {urls:?}\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n{more}\n",
            self.store()
        );
        self.write_text(&text);
    }

    pub fn write_text(&self, text: &str) {
        std::fs::write(self.file(), text).expect("a file");
    }

    pub fn start(&self) -> Proxy {
        Proxy::of(self.file(), None, &[])
    }

    /// Starts it with these variables besides.
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Proxy {
        Proxy::of(self.file(), None, variables)
    }

    /// Starts it as another user than root, whose the directory becomes, so that permissions count. If it is not root, it is this user.
    pub fn start_without_privileges(&self) -> Proxy {
        let account = crate::postgres::account();
        if let Some((user, group)) = account {
            let all = std::fs::read_dir(self.path()).expect("the directory");
            let all = all.map(|entry| entry.expect("an entry").path());
            for path in all.chain([self.path().to_owned()]) {
                std::os::unix::fs::chown(path, Some(user), Some(group)).expect("it is ours");
            }
        }
        Proxy::of(self.file(), account, &[])
    }
}

/// What a process has written so far.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    fn wait_for(&self, what: &str) -> String {
        let (lines, more) = &*self.0;
        let end = Instant::now() + PATIENCE;
        let mut lines = lines.lock().expect("not poisoned");
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(what)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing of {what:?} in {lines:#?}");
            lines = more.wait_timeout(lines, left).expect("not poisoned").0;
        }
    }
}

pub struct Proxy {
    process: Child,
    lines: Lines,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Proxy {
    /// Starts it before a backend.
    pub fn before(home: &Home, backend: SocketAddr, more: &str) -> Self {
        home.write(&[backend], more);
        home.start()
    }

    fn of(config: PathBuf, account: Option<(u32, u32)>, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneflight"));
        if let Some((user, group)) = account {
            command.uid(user).gid(group);
        }
        let mut process = command
            .args(["proxy", "--config"])
            .arg(config)
            .env_remove("ONEFLIGHT_STORE")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command");
        let lines = Lines::default();
        let of_process = BufReader::new(process.stderr.take().expect("a pipe"));
        let heard = lines.clone();
        std::thread::spawn(move || {
            for line in of_process.lines().map_while(Result::ok) {
                let (lines, more) = &*heard.0;
                lines.lock().expect("not poisoned").push(line);
                more.notify_all();
            }
        });
        let address = |line: String| {
            let (_, address) = line.split_once("address=").expect("an address");
            address.trim().parse().expect("an address")
        };
        Self {
            address: address(lines.wait_for("listening address=")),
            admin: address(lines.wait_for("listening for operators address=")),
            lines,
            process,
        }
    }

    pub fn wait_for_line(&self, what: &str) -> String {
        self.lines.wait_for(what)
    }

    /// How many lines with this it has written by now.
    pub fn told(&self, what: &str) -> usize {
        let lines = self.lines.0.0.lock().expect("not poisoned");
        lines.iter().filter(|line| line.contains(what)).count()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.process.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub async fn reload(&self) -> Answer {
        self.reload_as(&[("host", self.admin.to_string().as_str())]).await
    }

    /// Asks for it with these header lines.
    pub async fn reload_as(&self, headers: &[(&str, &str)]) -> Answer {
        post(self.admin, "/reload", headers, "").await
    }

    /// The value of a metric, by its name with its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let all = get(self.admin, "/metrics").await.text();
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
