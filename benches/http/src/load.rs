//! The load: requests over loopback, and calls of the service without sockets.
//!
//! A server has one thread and so has its load generator, which writes requests that are ready made and reads no more of an
//! answer than its status and length: where a machine has two cores, the server is what is measured. Each round has a
//! server, a store and connections of its own, whose making is not timed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use axum::Router;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::Service;

use crate::entrants::{Entrant, Executions, PATIENCE, order};
use crate::request::{self, Keyed};

/// The requests of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Each has a key of its own.
    Distinct,
    /// All have a key whose request was executed before.
    Replays,
    /// None has a key.
    Keyless,
}

impl Load {
    fn keyed(self, number: u64) -> Keyed {
        match self {
            Self::Distinct => Keyed::With(number),
            Self::Replays => Keyed::With(0),
            Self::Keyless => Keyed::Without,
        }
    }

    /// How often the handler has to be executed by so many requests.
    fn executions(self, entrant: Entrant, requests: u64) -> u64 {
        match (self, entrant) {
            (Self::Replays, Entrant::Oneflight | Entrant::InPlace | Entrant::PeerByHeader | Entrant::PeerByHash) => 1,
            // All of these are one request to it.
            (Self::Keyless, Entrant::PeerByHash) => 1,
            _ => requests,
        }
    }
}

/// Connections, with one request in flight on each.
const CONNECTIONS: u64 = 32;

/// Sends so many requests over loopback. Returns the time that one took, and the processor time that the server spent on it,
/// in nanoseconds.
///
/// # Panics
///
/// If a request was not answered as it should have been, or was not executed as often.
pub fn over_loopback(entrant: Entrant, load: Load, requests: u64) -> [f64; 2] {
    let executions = Executions::default();
    let server = Server::start(entrant.app(order(&executions)));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let each = requests / CONNECTIONS;
    let time = runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(server.address).await.expect("a connection"));
        }
        // The first one is executed, and makes what the others replay.
        connections[0].send(load.keyed(0)).await.expect("an answer");
        let begun = Instant::now();
        let all = connections.into_iter().zip(0..).map(|(mut connection, at)| {
            tokio::spawn(async move {
                for number in 0..each {
                    let keyed = load.keyed(1 + at * each + number);
                    connection.send(keyed).await.expect("an answer");
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
    let sent = each * CONNECTIONS;
    let busy = server.stop();
    let expected = load.executions(entrant, sent + 1);
    assert_eq!(executions.count(), expected, "executions by {}", entrant.name());
    [time.as_nanos() as f64, busy as f64].map(|nanos| nanos / sent as f64)
}

/// Calls the service so many times, one call after the other. Returns the time of one, in nanoseconds.
///
/// # Panics
///
/// As [`over_loopback`].
pub fn without_sockets(entrant: Entrant, load: Load, calls: u64) -> [f64; 1] {
    let executions = Executions::default();
    let mut app = entrant.app(order(&executions));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let time = runtime.block_on(async {
        call(&mut app, load.keyed(0)).await;
        let begun = Instant::now();
        for number in 1..=calls {
            call(&mut app, load.keyed(number)).await;
        }
        begun.elapsed()
    });
    assert_eq!(executions.count(), load.executions(entrant, calls + 1));
    [time.as_nanos() as f64 / calls as f64]
}

async fn call(app: &mut Router, keyed: Keyed) {
    let Ok(response) = app.call(request::request(keyed)).await;
    assert_eq!(response.status().as_u16(), 201);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(!body.is_empty());
}

/// A server on a thread of its own.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<u64>,
}

impl Server {
    fn start(app: Router) -> Self {
        let (tell, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let before = busy();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send(listener.local_addr().expect("an address"))
                    .expect("somebody listens");
                let served = axum::serve(listener, app);
                tokio::select! {
                    ended = served => ended.expect("a server that goes on"),
                    _ = stopped => {}
                }
            });
            busy() - before
        });
        let address = address.recv().expect("a server");
        Self { address, stop, thread }
    }

    /// Returns the processor time of its thread, in nanoseconds.
    fn stop(self) -> u64 {
        drop(self.stop);
        self.thread.join().expect("no panic")
    }
}

/// The processor time of this thread so far, in nanoseconds.
fn busy() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|spent| spent.parse().ok()).unwrap_or(0)
}

/// A connection that sends a request when the one before is answered.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::with_capacity(1024),
            answer: Vec::with_capacity(4096),
        })
    }

    async fn send(&mut self, keyed: Keyed) -> io::Result<()> {
        self.request.clear();
        request::write(keyed, &mut self.request);
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(length) = whole(&self.answer) {
                assert_eq!(length, self.answer.len(), "one answer to one request");
                break;
            }
        }
        match self.answer.starts_with(b"HTTP/1.1 201 ") {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&self.answer).into_owned())),
        }
    }
}

/// The length of an answer with its body, once it is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    const NAME: &[u8] = b"\r\ncontent-length: ";
    let at = answer[..head].windows(NAME.len()).position(|name| name == NAME)? + NAME.len();
    let digits = answer[at..].iter().take_while(|digit| digit.is_ascii_digit());
    let length = digits.fold(0, |length, digit| 10 * length + usize::from(digit - b'0'));
    (answer.len() >= head + length).then_some(head + length)
}
