//! A private PgBouncer before a private PostgreSQL: on a free port of the loopback, in a temporary directory. A missing
//! program is a failure, never a skip.
//!
//! It is stopped when it is dropped, and when this process ends, in whichever way: a small shell holds the other end of a
//! pipe that only we write to, and knows its process id.
#![allow(dead_code, reason = "each test uses its part")]

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::{SUPERUSER, Server, account, command, free_port};

/// How long it may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

pub struct Bouncer {
    port: u16,
    folder: PathBuf,
    /// Its standard input is closed with this; then it stops the pooler and removes the directory.
    keeper: Child,
}

impl Bouncer {
    /// Stands before a server, with settings of its own (`name = value`, in lines): of the mode, to begin with.
    pub fn before(server: &Server, settings: &str) -> Self {
        // Another process may take the port before it does.
        for _ in 0..5 {
            if let Some(bouncer) = Self::start(server, settings) {
                return bouncer;
            }
        }
        panic!("PgBouncer found no free port");
    }

    fn start(server: &Server, settings: &str) -> Option<Self> {
        let (account, port) = (account(), free_port());
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = users\nlogfile = log\n\
             max_client_conn = 1000\nignore_startup_parameters = extra_float_digits\n{settings}\n",
            server.port(),
        );
        std::fs::write(folder.join("pgbouncer.ini"), configuration).expect("the directory is ours");
        std::fs::write(folder.join("users"), format!("\"{SUPERUSER}\" \"\"\n")).expect("the directory is ours");
        if let Some((user, group)) = account {
            chown(&folder, Some(user), Some(group)).expect("the directory is ours");
        }
        let keeper = command(Path::new("sh"), &folder, account)
            .arg("-c")
            .arg(
                r#"command -v pgbouncer >/dev/null || { echo missing >log; exit; }
                pgbouncer -q pgbouncer.ini & cat >/dev/null; kill -9 $!; cd /; rm -rf "$0""#,
            )
            .arg(&folder)
            .env("PATH", "/usr/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What interrupts the tests does not interrupt this.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let bouncer = Self { port, folder, keeper };
        let until = Instant::now() + STARTS_WITHIN;
        while Instant::now() < until {
            let log = std::fs::read_to_string(bouncer.folder.join("log")).unwrap_or_default();
            assert!(
                !log.contains("missing"),
                "there is no PgBouncer; install Debian's package `pgbouncer`"
            );
            if log.contains("process up") {
                return Some(bouncer);
            }
            if log.contains("FATAL") {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("PgBouncer did not start");
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
