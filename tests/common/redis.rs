//! Private Redis servers for one test binary: on free ports of the loopback, in temporary directories, keeping nothing on disk
//! unless a test is about that. A missing server is a failure, never a skip.
//!
//! Each is stopped when it is dropped, and when this process ends, in whichever way: a small shell holds the other end of a
//! pipe that only we write to, and knows the server's process id.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::identity::RequestIdentity;
use oneflight::record::{Record, State, Timestamp};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use oneflight_redis::{RedisOptions, RedisStore};
use redis::aio::MultiplexedConnection;
use redis::{Client, cmd};

/// How long a server may take to start and to load what it has.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

pub struct Server {
    port: u16,
    folder: PathBuf,
    settings: Vec<String>,
    /// Its standard input is closed with this; then it stops the server and removes the directory.
    keeper: Child,
}

/// The server of this test binary, for tests that need no other.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

/// A prefix that no other test of this binary uses.
pub fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}:", COUNT.fetch_add(1, SeqCst))
}

/// The member of a list of what is in progress whose score is the last token of the shard.
pub const LAST_TOKEN: &[u8] = b"\xff";

/// Where an identity's record is kept.
pub struct Place {
    pub key: String,
    pub shard: u64,
}

impl Place {
    /// The list of what is in progress in the record's shard.
    pub fn list(&self) -> String {
        format!("{}.open", &self.key[..=self.key.find('}').expect("it has a tag")])
    }
}

/// A record as the server keeps it, with its times as `at` moves them.
pub fn stored(record: &Record, at: impl Fn(Timestamp) -> i64) -> Vec<u8> {
    let (letter, first, expires, result) = match &record.state {
        State::InProgress { lease_expires } => (if record.held { 'h' } else { 'p' }, *lease_expires, 0, &[][..]),
        State::Completed {
            result,
            completed,
            expires,
        } => ('c', *completed, at(*expires), result.as_bytes()),
        other => panic!("{other:?}"),
    };
    let (token, attempt, first) = (record.token.get() / 1024, record.attempt, at(first));
    let mut stored = format!("{letter}{token:016}{attempt:010}{first:016}{expires:016}").into_bytes();
    stored.extend(record.holder.as_bytes());
    match &record.fingerprint {
        Some(fingerprint) => {
            stored.push(b'1');
            stored.extend(fingerprint.as_bytes());
        }
        None => stored.push(b'0'),
    }
    stored.extend(b"000");
    stored.extend(result);
    stored
}

/// Finds out where an identity that is new belongs, of a store that only tells its tokens.
pub async fn place(store: &RedisStore, prefix: &str, id: &RequestIdentity) -> Place {
    let claim = match store.claim(ClaimRequest::new(id, STARTS_WITHIN)).await {
        Ok(ClaimOutcome::Granted(claim)) => claim,
        other => panic!("{other:?}"),
    };
    let shard = claim.token().get() % 1024;
    store.release(claim).await.expect("it is ours");
    Place {
        key: format!("{prefix}{{{shard}}}:{}\u{1f}{}", id.scope(), id.key()),
        shard,
    }
}

impl Server {
    /// Starts a server with additional settings (`--name value ...`).
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        let keeper = Command::new("sh")
            .arg("-c")
            .arg(r#"cat >/dev/null; kill -9 $(cat pid); cd /; rm -rf "$0""#)
            .arg(&folder)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What interrupts the tests does not interrupt this.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut server = Self {
            port: 0,
            folder,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            keeper,
        };
        // Another process may take the port before the server does.
        for _ in 0..5 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("Redis did not start: {}", server.log());
    }

    /// Starts it on its port, with what is in its directory.
    fn launch(&self) -> bool {
        // What it said before is not about this time.
        let _ = std::fs::remove_file(self.folder.join("log"));
        let status = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--daemonize", "yes", "--pidfile", "pid", "--logfile", "log"])
            .arg("--dir")
            .arg(&self.folder)
            .args(["--save", "", "--appendonly", "no"])
            .args(&self.settings)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap_or_else(|error| panic!("no `redis-server` ({error}); install Debian's package `redis-server`"));
        assert!(status.success(), "redis-server: {status}");
        let until = Instant::now() + STARTS_WITHIN;
        while Instant::now() < until {
            if self.ready() {
                return true;
            }
            if self.log().contains("Failed listening on port") {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn ready(&self) -> bool {
        let ask = || -> redis::RedisResult<String> {
            let mut connection = self.client().get_connection()?;
            cmd("PING").query(&mut connection)
        };
        // Another process's server on this port has another process id.
        ask().is_ok() && self.folder.join("pid").exists()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        let pid = std::fs::read_to_string(self.folder.join("pid")).expect("it has written its process id");
        pid.trim().parse().expect("a number")
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("there is `kill`").success(), "kill -s {name} {pid}");
    }

    /// Kills it, as a crash would: it waits for nothing. When this returns, its port is free again.
    pub fn kill(&self) {
        self.signal("KILL");
        while TcpListener::bind(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(self.folder.join("pid")).expect("it had written its process id");
    }

    /// Starts it again after it was killed.
    pub fn start_again(&self) {
        assert!(self.launch(), "Redis did not start again: {}", self.log());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn client(&self) -> Client {
        Client::open(self.url()).expect("it is a URL")
    }

    /// A connection for the test itself.
    pub async fn connection(&self) -> MultiplexedConnection {
        let connection = self.client().get_multiplexed_async_connection().await;
        connection.expect("the server answers")
    }

    /// A store as a process of its own would have it.
    pub async fn store(&self, prefix: &str) -> RedisStore {
        self.store_with(RedisStore::options().prefix(prefix)).await
    }

    pub async fn store_with(&self, options: RedisOptions) -> RedisStore {
        options.open(self.url()).await.expect("the server answers")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A cluster of so many servers, each with its share of the slots and without replicas.
pub async fn cluster(nodes: usize) -> Vec<Server> {
    let servers: Vec<Server> = (0..nodes)
        .map(|_| {
            let bus = free_port().to_string();
            Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
        })
        .collect();
    let share = 16_384_usize.div_ceil(nodes);
    for (place, server) in servers.iter().enumerate() {
        let mut connection = server.connection().await;
        let (first, last) = (place * share, ((place + 1) * share).min(16_384) - 1);
        let add: redis::RedisResult<()> = cmd("CLUSTER")
            .arg("ADDSLOTSRANGE")
            .arg(first)
            .arg(last)
            .query_async(&mut connection)
            .await;
        add.expect("the slots are free");
        let bus: Vec<String> = cmd("CONFIG")
            .arg("GET")
            .arg("cluster-port")
            .query_async(&mut connection)
            .await
            .expect("it has a bus");
        for other in &servers {
            let mut other = other.connection().await;
            let meet: redis::RedisResult<()> = cmd("CLUSTER")
                .arg("MEET")
                .arg("127.0.0.1")
                .arg(server.port())
                .arg(&bus[1])
                .query_async(&mut other)
                .await;
            meet.expect("they may meet");
        }
    }
    let until = Instant::now() + STARTS_WITHIN;
    for server in &servers {
        let mut connection = server.connection().await;
        loop {
            let info: String = cmd("CLUSTER")
                .arg("INFO")
                .query_async(&mut connection)
                .await
                .expect("it answers");
            let known = format!("cluster_known_nodes:{nodes}\r");
            if info.contains("cluster_state:ok") && info.contains(&known) && info.contains("cluster_slots_ok:16384") {
                break;
            }
            assert!(Instant::now() < until, "the cluster does not come together: {info}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    servers
}

/// A replica of the only server of a cluster. It may not follow yet.
pub async fn replica_in_cluster(primary: &Server) -> Server {
    let bus = free_port().to_string();
    let replica = Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    let of: String = {
        let mut connection = primary.connection().await;
        let of = cmd("CLUSTER").arg("MYID").query_async(&mut connection).await;
        of.expect("it has a name")
    };
    let mut connection = replica.connection().await;
    let mut primary_bus: Vec<String> = {
        let mut connection = primary.connection().await;
        let bus = cmd("CONFIG")
            .arg("GET")
            .arg("cluster-port")
            .query_async(&mut connection)
            .await;
        bus.expect("it has a bus")
    };
    let meet: redis::RedisResult<()> = cmd("CLUSTER")
        .arg("MEET")
        .arg("127.0.0.1")
        .arg(primary.port())
        .arg(primary_bus.pop())
        .query_async(&mut connection)
        .await;
    meet.expect("they may meet");
    let until = Instant::now() + STARTS_WITHIN;
    loop {
        let replicate: redis::RedisResult<()> = cmd("CLUSTER")
            .arg("REPLICATE")
            .arg(&of)
            .query_async(&mut connection)
            .await;
        match replicate {
            Ok(()) => return replica,
            // They have not met yet.
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Not one of those that the system gives to clients: a client that connects again and again would get the port of a server that
/// is down, and then connect to itself.
fn free_port() -> u16 {
    let ours = std::iter::repeat_with(|| fastrand::u16(15_000..32_000));
    let mut free = ours.filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.next().expect("there is always another one")
}
