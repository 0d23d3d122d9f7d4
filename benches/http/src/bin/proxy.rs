//! What `oneflight proxy` costs a request without a key: a backend asked directly, through the proxy, and through nginx if that is
//! installed, in turns.
//!
//! Client and backend are a thread each of this process, the proxies are processes. On a machine of two cores the three share
//! what a backend alone has for itself, so a backend that does nothing shows most of all how many cores there are. One that computes
//! is bound by its own thread, as most backends are. The processor time that a proxy spends on a request does not depend on that.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use axum::serve::ListenerExt;
use clap::Parser;
use futures::StreamExt;
use oneflight_http_benches::rounds::{self, Figure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

/// Compares a backend with itself behind a proxy
#[derive(Parser)]
struct Args {
    /// The built command
    #[arg(long, default_value = "target/release/oneflight")]
    oneflight: PathBuf,
    /// Few rounds of few requests
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    Oneflight,
    Nginx,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "the backend alone",
            Self::Oneflight => "oneflight proxy",
            Self::Nginx => "nginx",
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let args = Args::parse();
    let backend = backend();
    let oneflight = Server::oneflight(&args.oneflight, backend);
    let nginx = Server::nginx(backend);
    let mut ways = vec![Way::Bare, Way::Oneflight];
    if nginx.is_some() {
        ways.push(Way::Nginx);
    }
    let server = |way| match way {
        Way::Bare => None,
        Way::Oneflight => Some(&oneflight),
        Way::Nginx => nginx.as_ref(),
    };
    let (rounds, requests) = if args.quick { (3, 4_000) } else { (9, 20_000) };
    println!(
        "| backend | connections | way | requests/s | of the backend alone | processor time of the proxy, µs a request |"
    );
    println!("| --- | ---: | --- | ---: | ---: | ---: |");
    for (work, path, requests) in [
        ("does nothing", "/nothing", requests),
        ("computes for 100 µs", "/computes", requests / 2),
        ("waits 2 ms", "/waits", requests / 2),
    ] {
        for connections in [32, 64] {
            let [times, busy] = rounds::hold(&ways, rounds, Way::name, |way| {
                let to = server(way).map_or(backend, |server| server.address);
                let before = server(way).map_or(0, Server::busy);
                let time = load(to, path, connections, requests);
                let busy = server(way).map_or(0, Server::busy) - before;
                [time, busy as f64 / requests as f64]
            });
            for (figure, busy) in times.iter().zip(busy) {
                let (own, bare) = (1e9 / figure.median, 1e9 / times[0].median);
                let busy = busy.median / 1e3;
                println!(
                    "| {work} | {connections} | {} | {own:.0} | {:.2} × | {busy:.1} |",
                    figure.name,
                    own / bare
                );
            }
        }
    }
    println!();
    println!("| way | first byte of a stream, median ms | later than the backend alone, ms |");
    println!("| --- | ---: | ---: |");
    let samples = if args.quick { 40 } else { 200 };
    let mut firsts = vec![Vec::new(); ways.len()];
    for round in 0..samples {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            let to = server(ways[at]).map_or(backend, |server| server.address);
            firsts[at].push(first_byte(to).as_nanos() as f64);
        }
    }
    let firsts: Vec<Figure> = ways
        .iter()
        .zip(firsts)
        .map(|(way, samples)| Figure::new(way.name(), samples))
        .collect();
    for figure in &firsts {
        let later = (figure.median - firsts[0].median) / 1e6;
        println!("| {} | {:.2} | {later:+.2} |", figure.name, figure.median / 1e6);
    }
}

/// Starts the backend, on a thread of its own.
fn backend() -> SocketAddr {
    let (tell, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let app = Router::new()
                .route("/nothing", get(async || "done"))
                .route(
                    "/computes",
                    get(async || {
                        // As one process of Node does: its thread has no time for another request meanwhile.
                        let begun = Instant::now();
                        while begun.elapsed() < Duration::from_micros(100) {
                            std::hint::spin_loop();
                        }
                        "done"
                    }),
                )
                .route(
                    "/waits",
                    get(async || {
                        sleep(Duration::from_millis(2)).await;
                        "done"
                    }),
                )
                .route("/stream", get(stream));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address"))
                .expect("somebody listens");
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket"));
            axum::serve(listener, app).await.expect("a server that goes on");
        });
    });
    address.recv().expect("a backend")
}

/// A stream whose first part is there at once, and whose last is not.
async fn stream() -> Body {
    let parts = futures::stream::iter([0_u64, 20]).then(async |wait| {
        sleep(Duration::from_millis(wait)).await;
        Ok::<_, std::io::Error>(Bytes::from_static(b"part"))
    });
    Body::from_stream(parts)
}

/// A proxy as a process.
struct Server {
    process: Child,
    address: SocketAddr,
    /// What it is configured in.
    _folder: tempfile::TempDir,
}

impl Server {
    fn oneflight(command: &PathBuf, backend: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let config = folder.path().join("oneflight.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\nupstream.url = \"http://{backend}\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n",
            folder.path().join("records.db")
        );
        fs::write(&config, text).expect("a file");
        let mut process = Command::new(command)
            .args(["proxy", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.display()));
        let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let address = loop {
            let line = lines.next().expect("it listens").expect("a line");
            if let Some((_, address)) = line.split_once("listening address=") {
                break address.trim().parse().expect("an address");
            }
        };
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            process,
            address,
            _folder: folder,
        }
    }

    fn nginx(backend: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a directory");
        let address = StdListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a port");
        let path = folder.path().display();
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {path}/pid; error_log {path}/error;
             events {{ worker_connections 1024; }}
             http {{ access_log off; proxy_temp_path {path}/p; client_body_temp_path {path}/c; fastcgi_temp_path {path}/f;
               uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; keepalive_requests 1000000;
               upstream backend {{ server {backend}; keepalive 128; keepalive_requests 1000000; }}
               server {{ listen {address}; location / {{ proxy_pass http://backend; proxy_http_version 1.1;
                 proxy_set_header Connection \"\"; proxy_set_header Host $http_host; proxy_buffering off; }} }} }}"
        );
        let config = folder.path().join("nginx.conf");
        fs::write(&config, text).expect("a file");
        let command = ["/usr/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false))?;
        let process = Command::new(command)
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let begun = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nginx does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(Self {
            process,
            address,
            _folder: folder,
        })
    }

    /// The processor time of all its threads so far, in nanoseconds.
    fn busy(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("a process");
        let of = |task: std::io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        };
        tasks.filter_map(of).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends so many requests over so many connections. Returns the time of one, in nanoseconds.
fn load(to: SocketAddr, path: &'static str, connections: u64, requests: u64) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let each = requests / connections;
    let time = runtime.block_on(async {
        let mut opened = Vec::new();
        for _ in 0..connections {
            let mut connection = Connection::open(to, path).await;
            connection.send().await;
            opened.push(connection);
        }
        let begun = Instant::now();
        let all = opened.into_iter().map(|mut connection| {
            tokio::spawn(async move {
                for _ in 0..each {
                    connection.send().await;
                }
            })
        });
        let all: Vec<_> = all.collect();
        for one in all {
            timeout(PATIENCE, one)
                .await
                .expect("it is answered in time")
                .expect("no panic");
        }
        begun.elapsed()
    });
    time.as_nanos() as f64 / (each * connections) as f64
}

/// Returns how long the first part of a stream took, over a connection that was used before.
fn first_byte(to: SocketAddr) -> Duration {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = Connection::open(to, "/nothing").await;
        connection.send().await;
        connection.request = request("/stream");
        let begun = Instant::now();
        connection
            .stream
            .write_all(&connection.request)
            .await
            .expect("an open connection");
        let mut read = Vec::new();
        while !read.windows(4).any(|part| part == b"part") {
            let more = timeout(PATIENCE, connection.stream.read_buf(&mut read)).await;
            assert_ne!(more.expect("a part").expect("an open connection"), 0);
        }
        begun.elapsed()
    })
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").into_bytes()
}

impl Connection {
    async fn open(to: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(to).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            request: request(path),
            answer: Vec::with_capacity(4096),
        }
    }

    /// Sends a request, and reads its answer, which ends with its only word.
    async fn send(&mut self) {
        self.stream.write_all(&self.request).await.expect("an open connection");
        self.answer.clear();
        while !self.answer.ends_with(b"\r\n\r\ndone") {
            let read = self
                .stream
                .read_buf(&mut self.answer)
                .await
                .expect("an open connection");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&self.answer));
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "));
    }
}
