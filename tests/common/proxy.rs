//! A TCP proxy that stands between a client and its server, counts, and cuts where a test says.
//!
//! It looks for bytes in what the client sends, so it serves any protocol whose commands can be seen; round trips are
//! counted for PostgreSQL.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a connection is cut, seen from the bytes that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They do not reach the server.
    Before,
    /// Neither they nor what follows on their connection reach the server, and neither end is told: both wait.
    Swallowed,
    /// A part of them reaches the server.
    Middle,
    /// They reach the server, and its answer has no way back.
    After,
    /// The server's answer was under way, and is lost.
    AfterAnswer,
    /// The same, and the client's connection is reset.
    Reset,
    /// Both go on after this long.
    Delay(Duration),
}

struct Armed {
    bytes: Vec<u8>,
    cut: Cut,
    /// How many such messages go through before.
    skipped: usize,
    times: usize,
}

#[derive(Default)]
struct State {
    armed: Mutex<Option<Armed>>,
    cuts: AtomicUsize,
    round_trips: AtomicUsize,
    connections: AtomicUsize,
    messages: AtomicUsize,
}

/// Dropped, it closes all its connections.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    epoch: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Stands before a server on this port of the loopback.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::<State>::default();
        let epoch = watch::Sender::new(0);
        let task = tokio::spawn({
            let (state, epoch) = (Arc::clone(&state), epoch.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    state.connections.fetch_add(1, SeqCst);
                    let (state, mut epoch) = (Arc::clone(&state), epoch.subscribe());
                    tokio::spawn(async move {
                        let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                            return;
                        };
                        tokio::select! {
                            () = pass(client, server, &state) => {}
                            _ = epoch.changed() => {}
                        }
                    });
                }
            }
        });
        Self {
            port,
            state,
            epoch,
            task,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts at the next message with these bytes.
    pub fn cut(&self, bytes: impl AsRef<[u8]>, cut: Cut) {
        self.cut_times(bytes, cut, 1);
    }

    /// Cuts at the next so many messages with these bytes.
    pub fn cut_times(&self, bytes: impl AsRef<[u8]>, cut: Cut, times: usize) {
        self.arm(bytes.as_ref(), cut, 0, times);
    }

    /// Cuts once, after so many messages with these bytes have gone through; without bytes, any messages.
    pub fn cut_after(&self, skipped: usize, bytes: impl AsRef<[u8]>, cut: Cut) {
        self.arm(bytes.as_ref(), cut, skipped, 1);
    }

    fn arm(&self, bytes: &[u8], cut: Cut, skipped: usize, times: usize) {
        *self.state.armed.lock().unwrap() = Some(Armed {
            bytes: bytes.to_vec(),
            cut,
            skipped,
            times,
        });
    }

    /// Cuts no more.
    pub fn disarm(&self) {
        *self.state.armed.lock().unwrap() = None;
    }

    /// Closes all connections that there are now.
    pub fn cut_all(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// How often it has cut.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(SeqCst)
    }

    /// Waits until it has cut so often.
    pub async fn has_cut(&self, times: usize) {
        while self.cuts() < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How often a client waited for PostgreSQL so far: for its `Sync` and `Query` messages. For those that come at once, it
    /// waits once.
    pub fn round_trips(&self) -> usize {
        self.state.round_trips.load(SeqCst)
    }

    /// How many messages of clients have come so far, as they were read: one or more of the protocol's at once.
    pub fn messages(&self) -> usize {
        self.state.messages.load(SeqCst)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut_all();
    }
}

impl State {
    /// What is to be done about this chunk, if anything.
    fn cut_at(&self, chunk: &[u8]) -> Option<Cut> {
        let mut armed = self.armed.lock().unwrap();
        let there = armed.as_mut()?;
        let wanted = there.bytes.is_empty() || chunk.windows(there.bytes.len()).any(|bytes| bytes == there.bytes);
        if !wanted {
            return None;
        }
        if there.skipped > 0 {
            there.skipped -= 1;
            return None;
        }
        let cut = there.cut;
        there.times -= 1;
        if there.times == 0 {
            *armed = None;
        }
        self.cuts.fetch_add(1, SeqCst);
        Some(cut)
    }
}

async fn pass(client: TcpStream, server: TcpStream, state: &State) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Set when the next answer is to be lost.
    let losing = watch::Sender::new(None);
    // Whichever way ends first, both ends are closed.
    tokio::select! {
        () = questions(from_client, to_server, state, &losing) => {}
        () = answers(from_server, to_client, losing.subscribe()) => {}
    }
}

async fn questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    losing: &watch::Sender<Option<Cut>>,
) {
    let mut chunk = vec![0; 64 * 1024];
    let mut frames = Frames::default();
    let mut swallowing = false;
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let bytes = &chunk[..read];
        state.messages.fetch_add(1, SeqCst);
        state.round_trips.fetch_add(frames.round_trips(bytes).min(1), SeqCst);
        if swallowing {
            continue;
        }
        match state.cut_at(bytes) {
            None => {}
            Some(Cut::Before) => return,
            Some(Cut::Swallowed) => {
                swallowing = true;
                continue;
            }
            Some(Cut::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Cut::Middle) => {
                let _ = to.write_all(&bytes[..read / 2]).await;
                return;
            }
            Some(Cut::After) => {
                let _ = to.write_all(bytes).await;
                return;
            }
            Some(cut @ (Cut::AfterAnswer | Cut::Reset)) => {
                losing.send_replace(Some(cut));
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losing: watch::Receiver<Option<Cut>>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let cut = *losing.borrow();
        if cut == Some(Cut::Reset) {
            let _ = to.as_ref().set_zero_linger();
            // It would send the end of the stream before.
            to.forget();
            return;
        }
        if cut.is_some() || to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

/// The messages of a PostgreSQL client, as far as their kind.
#[derive(Default)]
struct Frames {
    rest: Vec<u8>,
    started: bool,
}

impl Frames {
    fn round_trips(&mut self, bytes: &[u8]) -> usize {
        self.rest.extend_from_slice(bytes);
        let mut count = 0;
        loop {
            // The first message has no kind.
            let header = usize::from(self.started);
            let Some(length) = self.rest.get(header..header + 4) else {
                return count;
            };
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            let whole = header + length;
            // Another protocol's, or not there yet.
            if length < 4 || self.rest.len() < whole {
                return count;
            }
            if self.started && matches!(self.rest[0], b'S' | b'Q') {
                count += 1;
            }
            self.started = true;
            self.rest.drain(..whole);
        }
    }
}
