//! Backends: a function of each request, the bytes of each connection, or a process that can be killed.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::Raw;
use crate::proxy::PATIENCE;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A backend in this process, which counts what reaches it.
pub struct Backend {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Answers each request by a function.
    pub async fn by<F, W>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"), answer)
    }

    pub fn on<F, W>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Response<Body>> + Send + 'static,
    {
        let requests: Arc<AtomicUsize> = Arc::default();
        let (address, counts) = (listener.local_addr().expect("a port"), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (answer, counts) = (answer.clone(), Arc::clone(&counts));
                let service = service_fn(move |request| {
                    counts.fetch_add(1, SeqCst);
                    let answer = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Serves each connection by a function of its bytes.
    pub async fn raw<F, W>(serve: F) -> Self
    where
        F: Fn(Raw) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let requests: Arc<AtomicUsize> = Arc::default();
        let (address, counts) = (listener.local_addr().expect("a port"), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                counts.fetch_add(1, SeqCst);
                tokio::spawn(serve(Raw::on(stream)));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// How many requests have come; of one of bytes, how many connections.
    pub fn count(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Waits until so many have come.
    pub async fn reached(&self, count: usize) {
        until(|| self.count() >= count).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until a condition holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn text(text: impl Into<String>) -> Response<Body> {
    let text = text.into();
    Response::new(
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync(),
    )
}

pub fn status(status: u16, body: &str) -> Response<Body> {
    let mut answer = text(body);
    *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    answer
}

pub async fn read(request: Request<Incoming>) -> String {
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// A port at which nobody listens.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("a port")
}

/// A backend as a process of its own. Each body that it has read is a line of its journal; then it answers, once it may.
pub struct Process {
    child: Child,
    journal: PathBuf,
}

const ADDRESS: &str = "ONEFLIGHT_TEST_BACKEND_ADDRESS";
const JOURNAL: &str = "ONEFLIGHT_TEST_BACKEND_JOURNAL";

impl Process {
    /// Starts it at an address, with a journal that may be another one's already.
    pub async fn start(address: SocketAddr, journal: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "backend::serves_until_it_is_killed", "--ignored"])
            .env(ADDRESS, address.to_string())
            .env(JOURNAL, journal)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program");
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "it does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self {
            child,
            journal: journal.to_owned(),
        }
    }

    pub fn journal(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.journal).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A body of `slow` is never answered.
#[test]
#[ignore = "it is the process of a backend"]
fn serves_until_it_is_killed() {
    let (Ok(address), Ok(journal)) = (std::env::var(ADDRESS), std::env::var(JOURNAL)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::bind(address).await.expect("the port");
        let backend = Backend::on(listener, move |request| {
            let journal = journal.clone();
            async move {
                let body = read(request).await;
                let mut file = std::fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(journal)
                    .expect("a file");
                std::io::Write::write_all(&mut file, format!("{body}\n").as_bytes()).expect("a file");
                if body.starts_with("slow") {
                    std::future::pending::<()>().await;
                }
                text(format!("done: {body}"))
            }
        });
        std::future::pending::<()>().await;
        drop(backend);
    });
}
