//! A private PostgreSQL for one test binary: started when it is first asked for, on a free port of the loopback, in a
//! temporary directory. A missing server is a failure, never a skip.
//!
//! It is stopped when this process ends, in whichever way: a small shell holds the other end of a pipe that only we
//! write to.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection};

pub const SUPERUSER: &str = "oneflight";

pub struct Server {
    port: u16,
    folder: PathBuf,
    programs: PathBuf,
    account: Option<(u32, u32)>,
    /// Its standard input is closed with this process; then it stops the server and removes the directory.
    _keeper: Child,
}

/// The server of this test binary, which does not wait for the disk.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("-c fsync=off -c full_page_writes=off"))
}

/// The programs of the newest PostgreSQL that is installed.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb").exists().then(|| (version, path.join("bin")))
        })
        .collect();
    found.sort();
    match found.pop() {
        Some((_, programs)) => programs,
        None => panic!("there is no PostgreSQL in /usr/lib/postgresql; install Debian's package `postgresql`"),
    }
}

/// User and group to run as: PostgreSQL refuses to run as root.
pub fn account() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process has a status");
    let we_are_root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    we_are_root.then(|| {
        let accounts = std::fs::read_to_string("/etc/passwd").expect("the system has accounts");
        let line = accounts.lines().find(|line| line.starts_with("postgres:"));
        let mut fields = line.expect("there is a user `postgres`").split(':').skip(2);
        let mut number = || fields.next().and_then(|field| field.parse().ok()).expect("a number");
        (number(), number())
    })
}

impl Server {
    /// Starts a server with additional settings (`-c name=value ...`).
    pub fn start(settings: &str) -> Self {
        let (programs, account) = (programs(), account());
        let folder = folder(account);
        run(command(Path::new("cp"), &folder, account)
            .arg("-a")
            .arg(template(&programs, account))
            .arg("data"));
        // Another process may take the port before the server does.
        let port = (0..5)
            .find_map(|_| {
                let port = free_port();
                start(&programs, &folder, account, port, settings).then_some(port)
            })
            .unwrap_or_else(|| {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("PostgreSQL did not start: {log}")
            });
        let keeper = keeper(&programs, &folder, account);
        Self {
            port,
            folder,
            programs,
            account,
            _keeper: keeper,
        }
    }

    /// Stops the server, as a crash would or in good order (`immediate` or `fast`), and starts it again.
    pub fn restart(&self, how: &str) {
        run(command(&self.programs.join("pg_ctl"), &self.folder, self.account)
            .args(["-D", "data", "-w", "-l", "log", "-m", how, "restart"])
            .stdout(Stdio::null()));
    }

    /// A program that came with the server.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).expect("the server logs into its directory")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect, directly or through a proxy at another port.
    pub fn options(&self, port: u16) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(SUPERUSER)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }

    /// A new, empty schema, which is the whole search path of connections to it.
    pub async fn schema(&self) -> Schema {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, SeqCst));
        let mut connection = sqlx::PgConnection::connect_with(&self.options(self.port))
            .await
            .expect("the server answers");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {name}")))
            .execute(&mut connection)
            .await
            .expect("the schema is new");
        let options = self.options(self.port).options([("search_path", &name)]);
        Schema { name, options }
    }
}

/// A schema of a test's own.
#[derive(Clone)]
pub struct Schema {
    pub name: String,
    pub options: PgConnectOptions,
}

impl Schema {
    /// A pool of connections, as a process of its own would have it.
    pub fn pool(&self, connections: u32) -> PgPool {
        self.pool_through(self.options.get_port(), connections)
    }

    /// A pool whose connections go through a proxy.
    pub fn pool_through(&self, port: u16, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .connect_lazy_with(self.options.clone().port(port))
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

pub fn command(program: &Path, folder: &Path, account: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C").env_remove("PGOPTIONS");
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command
}

/// A directory that the server can write to.
fn folder(account: Option<(u32, u32)>) -> PathBuf {
    let folder = tempfile::tempdir().expect("a temporary directory").keep();
    if let Some((user, group)) = account {
        chown(&folder, Some(user), Some(group)).expect("the directory is ours");
    }
    folder
}

/// What a server of this test binary begins with: made once, since a copy takes a small part of the time.
fn template(programs: &Path, account: Option<(u32, u32)>) -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (data, _keeper) = TEMPLATE.get_or_init(|| {
        let folder = folder(account);
        run(command(&programs.join("initdb"), &folder, account)
            .args(["-D", "data", "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C"])
            .args(["--no-sync", "--no-instructions"]));
        let keeper = keeper(programs, &folder, account);
        (folder.join("data"), keeper)
    });
    data
}

/// Stops the server, if there is one, and removes its directory when this process ends.
fn keeper(programs: &Path, folder: &Path, account: Option<(u32, u32)>) -> Child {
    command(Path::new("sh"), folder, account)
        .arg("-c")
        .arg(r#"cat >/dev/null; "$0" -D data -m immediate stop; cd /; rm -rf "$1""#)
        .arg(programs.join("pg_ctl"))
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What interrupts the tests does not interrupt this.
        .process_group(0)
        .spawn()
        .expect("there is a shell")
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn start(programs: &Path, folder: &Path, account: Option<(u32, u32)>, port: u16, settings: &str) -> bool {
    let options = format!(
        "-p {port} -h 127.0.0.1 -k {} -c max_connections=300 -c shared_buffers=64MB {settings}",
        folder.display()
    );
    // Not `output`: the server would hold the other end of the pipe.
    command(&programs.join("pg_ctl"), folder, account)
        .args(["-D", "data", "-w", "-t", "60", "-l", "log", "-o", &options, "start"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
