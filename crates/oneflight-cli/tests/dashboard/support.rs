//! A dashboard of its own for each test, and a client that sends exactly what it is told, as no browser would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Whatever is waited for gets so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const TOKEN: &str = "a token of some length";

/// The command, as it was built.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneflight"));
    for name in ["ONEFLIGHT_STORE", "ONEFLIGHT_DASHBOARD_TOKEN", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

pub struct Dashboard {
    process: Child,
    pub address: SocketAddr,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Dashboard {
    /// Starts one that only reads.
    pub fn reading(store: &Path) -> Self {
        Self::start(store, &[], None)
    }

    /// Starts one that changes things for who has the token.
    pub fn changing(store: &Path) -> Self {
        Self::start(store, &[], Some(TOKEN))
    }

    pub fn start(store: &Path, arguments: &[&str], token: Option<&str>) -> Self {
        let mut command = command();
        command.arg("dashboard").arg("--store").arg(store);
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        if let Some(token) = token {
            command.env("ONEFLIGHT_DASHBOARD_TOKEN", token);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        let address = first
            .trim()
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix('/'));
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let _ = process.kill();
            let mut told = String::new();
            process.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            panic!("no address but {first:?}: {told}");
        };
        Self { process, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Ends it by a signal, and returns how it ended and what it has logged.
    pub fn stop(mut self) -> (ExitStatus, String) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap(), log)
    }

    /// What a page of this dashboard's sends to read something.
    pub fn get(&self, path: &str) -> Request {
        Request::new("GET", path, self.address).header("Sec-Fetch-Site", "same-origin")
    }

    /// What a page of this dashboard's sends to change something.
    pub fn post(&self, path: &str, body: &Value) -> Request {
        let mut request = Request::new("POST", path, self.address)
            .header("Origin", &format!("http://{}", self.address))
            .header("Sec-Fetch-Site", "same-origin")
            .header("Content-Type", "application/json");
        request.body = body.to_string();
        request
    }

    pub fn log_in(&self) -> Session<'_> {
        let answer = self.post("/api/login", &serde_json::json!({ "token": TOKEN })).send();
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        Session {
            dashboard: self,
            cookie: cookie.split(';').next().unwrap().to_owned(),
            csrf: answer.json()["csrf"].as_str().unwrap().to_owned(),
        }
    }
}

/// Somebody who gave the token.
pub struct Session<'d> {
    dashboard: &'d Dashboard,
    pub cookie: String,
    pub csrf: String,
}

impl Session<'_> {
    pub fn get(&self, path: &str) -> Request {
        self.dashboard.get(path).header("Cookie", &self.cookie)
    }

    pub fn post(&self, path: &str, body: &Value) -> Request {
        let request = self.dashboard.post(path, body);
        request
            .header("Cookie", &self.cookie)
            .header("X-Oneflight-Csrf", &self.csrf)
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    address: SocketAddr,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn new(method: &str, path: &str, address: SocketAddr) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            address,
            headers: vec![("Host".to_owned(), address.to_string())],
            body: String::new(),
        }
    }

    /// Sets a header, in place of what was set before.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    pub fn send(&self) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!(
            "Connection: close\r\nContent-Length: {}\r\n\r\n",
            self.body.len()
        ));
        // What is too large is answered before it was read.
        let _ = stream.write_all((text + &self.body).as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("0");
        let headers = lines.filter_map(|line| line.split_once(": "));
        Answer {
            status: status.parse().unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and the word by which the page knows a problem.
    pub fn problem(&self) -> (u16, String) {
        (self.status, self.json()["kind"].as_str().unwrap_or_default().to_owned())
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}
