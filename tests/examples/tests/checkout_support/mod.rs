//! What the tests of `examples/checkout` share: the program as a process, and a client that can also be rude.
//!
//! Every process that is started here is killed when its guard is dropped, so also when a test fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

/// The example's program. `cargo test` builds it; `cargo test --test …` does not.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .find(|directory| directory.join("examples").is_dir())
        .expect("the examples stand beside the tests");
    let program = profile
        .join("examples")
        .join(format!("checkout{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --example checkout` first",
        program.display()
    );
    program
}

/// A child process that does not outlive the test.
pub struct Guarded(Child);

impl Guarded {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program starts"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_some()
    }

    /// `kill -9`, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// `kill`: asks it to stop.
    pub fn terminate(&self) {
        let told = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        assert!(told.expect("kill can be run").success());
    }

    /// Waits for its end, and fails the test if that takes longer.
    pub fn wait(&mut self, longest: Duration) -> std::process::ExitStatus {
        let until = Instant::now() + longest;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(Instant::now() < until, "not ended after {longest:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn take_stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("standard output is piped")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stand-in, or a relay, in a process of its own.
pub struct StandIn {
    pub process: Guarded,
    /// Where it listens: nowhere is port 0.
    pub address: SocketAddr,
}

impl StandIn {
    /// Starts a stand-in, and waits until it listens.
    pub fn start(name: &str, ledger: &Path, port: u16) -> Self {
        let ledger = ledger.to_str().expect("a path of ours");
        let started = Self::spawn(&[name, "--ledger", ledger, "--port", &port.to_string()]);
        assert_ne!(started.address.port(), 0, "it does not say where it is");
        started
    }

    /// Starts the program with these arguments, and waits until it says that it is ready.
    pub fn spawn(arguments: &[&str]) -> Self {
        let mut process = Guarded::spawn(
            Command::new(program())
                .args(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        );
        let mut lines = BufReader::new(process.take_stdout()).lines();
        let first = lines
            .next()
            .expect("it says where it is")
            .expect("its output can be read");
        // What else it prints is read and let go, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let address = first
            .split_whitespace()
            .find_map(|word| word.split_once("://")?.1.parse().ok());
        Self {
            process,
            address: address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        }
    }
}

/// Keeps every order from being placed over SQLite, until the connection that is returned closes: for so long, what is sent is
/// under way.
pub async fn hold(db: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(db);
    let options = options.busy_timeout(Duration::from_secs(10));
    let mut connection = options.connect().await.expect("the database is there");
    let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await;
    begun.expect("nobody else keeps it");
    connection
}

/// A service in a process of its own.
pub struct Server {
    pub process: Guarded,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it on the database file, and waits until it listens.
    pub fn start(db: &Path, port: u16, more: &[&str]) -> Self {
        let db = db.to_str().expect("a path of ours");
        Self::start_with(port, &[&["--db", db], more].concat())
    }

    /// Starts it with these arguments, and waits until it listens.
    pub fn start_with(port: u16, arguments: &[&str]) -> Self {
        let port = port.to_string();
        let StandIn { process, address } = StandIn::spawn(&[&["serve", "--port", &port], arguments].concat());
        assert_ne!(address.port(), 0, "the service does not say where it is");
        Self { process, address }
    }

    pub fn send(&self, request: &Request) -> Answer {
        exchange(self.address, &request.bytes()).expect("the service answers")
    }

    /// One of the figures that its page shows.
    pub fn figure(&self, name: &str) -> u64 {
        let answer = self.send(&Request::get("/figures"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()[name].as_u64().expect("a number")
    }

    /// Waits until it has begun to place so many orders. From then on, an order is placed also if its client leaves.
    pub fn until_begun(&self, orders: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.figure("executions") < orders {
            assert!(Instant::now() < until, "{orders} orders were never begun");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has got so many requests for orders.
    pub fn until_requests(&self, count: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.figure("requests") < count {
            assert!(Instant::now() < until, "{count} requests never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many orders its database holds.
    pub fn orders(&self) -> u64 {
        let answer = self.send(&Request::get("/orders"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["count"].as_u64().expect("a number")
    }
}

/// A request, and every byte of it ours.
#[derive(Debug, Clone)]
pub struct Request {
    start: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    pub length: Option<usize>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            start: format!("{method} {path} HTTP/1.1\r\n"),
            headers: Vec::new(),
            body: Vec::new(),
            length: Some(0),
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// `POST /orders`
    pub fn order() -> Self {
        Self::new("POST", "/orders")
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.header("Idempotency-Key", key)
    }

    pub fn body(mut self, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_owned();
        self.length = Some(self.body.len());
        self.header("Content-Type", content_type)
    }

    pub fn json(self, body: impl AsRef<[u8]>) -> Self {
        self.body("application/json", body)
    }

    pub fn form(self, body: impl AsRef<[u8]>) -> Self {
        self.body("application/x-www-form-urlencoded", body)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.start.clone().into_bytes();
        bytes.extend_from_slice(b"host: shop\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(length) = self.length {
            bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(&self.body);
        } else {
            // No length: in chunks, of which the whole body is one.
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
            bytes.extend_from_slice(&self.body);
            bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        bytes
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }
}

/// Sends the bytes and reads until the service closes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let broken = || std::io::Error::other(format!("no HTTP in {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(broken)?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body: body.to_owned(),
    })
}

/// Runs a storm to its end. The guard in the program is its own time-out.
pub fn storm(arguments: &[&str]) -> Output {
    Command::new(program())
        .arg("storm")
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The one JSON object that standard output must be.
pub fn report(stdout: &[u8]) -> Value {
    let text = std::str::from_utf8(stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "one line: {text:?}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

/// A number in a report.
pub fn number(report: &Value, name: &str) -> u64 {
    report[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {name} in {report}"))
}
