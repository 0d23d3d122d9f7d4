//! What stands between browser and service, and can take an answer away after the service has given it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Passes every connection on to one address. It ends when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    accepts: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    posts: AtomicU32,
    to_be_cut: AtomicU32,
    cut: AtomicU32,
}

impl Proxy {
    /// Starts it before the service at this address. The answers to the first posts are cut off.
    pub async fn before(service: SocketAddr, to_be_cut: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            to_be_cut: AtomicU32::new(to_be_cut),
            ..Seen::default()
        });
        let accepts = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                // A set that is dropped ends what is in it.
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    connections.spawn(pass(client, service, Arc::clone(&seen)));
                }
            }
        });
        Self { address, seen, accepts }
    }

    /// Takes no further answer away.
    pub fn cut_no_more(&self) {
        self.seen.to_be_cut.store(0, SeqCst);
    }

    /// How many posts were passed on.
    pub fn posts(&self) -> u32 {
        self.seen.posts.load(SeqCst)
    }

    /// How many answers were taken away.
    pub fn cut(&self) -> u32 {
        self.seen.cut.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

/// Passes a connection on, one request and its answer after the other, as browsers speak HTTP/1.1.
async fn pass(mut client: TcpStream, service: SocketAddr, seen: Arc<Seen>) {
    // A service that is away is a connection that is closed at once.
    let Ok(mut service) = TcpStream::connect(service).await else {
        return;
    };
    loop {
        let Some(request) = message(&mut client).await else {
            return;
        };
        let posted = request.starts_with(b"POST ");
        if posted {
            seen.posts.fetch_add(1, SeqCst);
        }
        if service.write_all(&request).await.is_err() {
            return;
        }
        let cut = posted
            && seen
                .to_be_cut
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .is_ok();
        let Some(answer) = message(&mut service).await else {
            return;
        };
        if cut {
            seen.cut.fetch_add(1, SeqCst);
            return;
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Reads one message: its head, and a body of the length that the head says.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let head = loop {
        let mut byte = [0];
        from.read_exact(&mut byte).await.ok()?;
        message.push(byte[0]);
        if message.ends_with(b"\r\n\r\n") {
            break String::from_utf8_lossy(&message).to_ascii_lowercase();
        }
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: u64 = length.map_or(0, |length| length.trim().parse().expect("a length"));
    let mut body = from.take(length);
    copy(&mut body, &mut message).await.ok()?;
    Some(message)
}
