//! One connection to a backend, which its user polls.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::failure::{Failure, Reason, Sent};
use super::outgoing::Outgoing;
use super::stream::Stream;

/// A backend is ours, and has done something when it answers: what it says is thrown away for its form alone only where it would take
/// memory without end. In lines.
const MOST_LINES: usize = 1_000;
/// The same, in bytes.
const LONGEST_HEAD: usize = 1024 * 1024;

/// hyper's, whose type has no name.
type Driver = dyn Future<Output = hyper::Result<()>> + Send;

/// A connection, and what drives it. Nothing happens on it unless it is polled.
pub(super) struct Connection {
    sender: SendRequest<Outgoing>,
    /// `None` once it is over: dropped, it gives back a request that it has not begun.
    driver: Option<Pin<Box<Driver>>>,
    written: Arc<AtomicU64>,
    /// When it was used last.
    pub(super) used: Instant,
}

/// A request that did not get its answer.
pub(super) enum Unanswered {
    /// It comes back as it was: not a byte of it left.
    Unsent(Box<Request<Outgoing>>),
    Failed(Failure),
}

impl Connection {
    pub(super) async fn open(stream: Stream) -> hyper::Result<Self> {
        let written = stream.written();
        let (sender, connection) = http1::Builder::new()
            .max_headers(MOST_LINES)
            .max_buf_size(LONGEST_HEAD)
            .handshake(stream)
            .await?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(connection.with_upgrades())),
            written,
            used: Instant::now(),
        })
    }

    /// Goes on with what is under way. It is over if this says so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        go_on(&mut self.driver, cx)
    }

    /// Whether another request may be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.sender.is_ready()
    }

    /// Drives it until it is idle, or returns `None` at its end.
    pub(super) async fn until_idle(mut self) -> Option<Self> {
        let is_idle = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending => self.sender.poll_ready(cx).map(|ready| ready.is_ok()),
        })
        .await;
        is_idle.then_some(self)
    }

    /// Drives it to its end, after which it belongs to another protocol.
    pub(super) async fn until_over(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Looks whether it still stands, while it is idle.
    pub(super) async fn stands(&mut self) -> bool {
        // After many others in one turn, tokio would say of a closed one that nothing has come.
        unconstrained(poll_fn(|cx| Poll::Ready(self.poll(cx).is_pending()))).await && self.is_idle()
    }

    /// Sends a request, and returns the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unanswered> {
        let before = self.written.load(Ordering::Relaxed);
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                return Poll::Ready(answered);
            }
            let _ = go_on(driver, cx);
            answer.as_mut().poll(cx)
        })
        .await;
        answered.map_err(|mut error| match error.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request)),
            None => {
                let sent = match self.written.load(Ordering::Relaxed) == before {
                    true => Sent::Nothing,
                    false => Sent::Something,
                };
                Unanswered::Failed(Failure {
                    reason: Reason::Broken,
                    sent,
                    source: Some(error.into_error().into()),
                })
            }
        })
    }
}

/// Polls what drives a connection, and drops it at its end.
fn go_on(driver: &mut Option<Pin<Box<Driver>>>, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(driving) = driver {
        // How it ended is told to the one who waits for an answer.
        let _ = ready!(driving.as_mut().poll(cx));
        *driver = None;
    }
    Poll::Ready(())
}
