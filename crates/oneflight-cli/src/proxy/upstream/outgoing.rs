//! The body of a request on its way to a backend.
//!
//! It says when it is over, and where the client waits to be asked for it, it is not begun before the backend asks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::super::body::{Body, BoxError};

/// The body of a request to a backend.
pub(in super::super) struct Outgoing {
    body: Body,
    waits: Option<Waits>,
    progress: Arc<Progress>,
}

/// How far the body of a request has come.
///
/// ```text
/// Held ──asked for, or the time is over──▶ Flows ──taken, or given up──▶ Ended
///   └─────an answer came before that─────▶ Unwanted
/// ```
#[derive(Debug)]
pub(super) struct Progress {
    state: AtomicU8,
    /// When it began, and later when it ended.
    since: Mutex<Instant>,
}

const FLOWS: u8 = 0;
const HELD: u8 = 1;
const UNWANTED: u8 = 2;
const ENDED: u8 = 3;

impl Progress {
    fn new(state: u8) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(state),
            since: Mutex::new(Instant::now()),
        })
    }

    /// Returns when the body ended, if it does not flow any more.
    pub(super) fn ended_at(&self) -> Instant {
        *self.since.lock()
    }

    /// Whether there is nothing more to send. A body that was held back until now is not wanted any more.
    pub(super) fn answered(&self) -> bool {
        let _ = self
            .state
            .compare_exchange(HELD, UNWANTED, Ordering::AcqRel, Ordering::Acquire);
        self.state.load(Ordering::Acquire) != FLOWS
    }

    /// Whether the body is on its way.
    pub(super) fn flows(&self) -> bool {
        self.state.load(Ordering::Acquire) == FLOWS
    }
}

/// Opens a body that waits to be asked for.
#[derive(Clone)]
pub(in super::super) struct Gate(Arc<Mutex<Option<oneshot::Sender<()>>>>);

struct Waits {
    asked: Option<oneshot::Receiver<()>>,
    /// A backend that does not know of `Expect` never asks.
    longest: Pin<Box<Sleep>>,
}

impl Outgoing {
    pub(in super::super) fn new(body: Body) -> Self {
        // hyper does not even begin an empty one.
        let progress = match body.is_end_stream() {
            true => ENDED,
            false => FLOWS,
        };
        Self {
            body,
            waits: None,
            progress: Progress::new(progress),
        }
    }

    /// Holds the body back until the gate is opened, or for so long.
    pub(in super::super) fn gated(body: Body, longest: Duration) -> (Self, Gate) {
        let (open, asked) = oneshot::channel();
        let waits = Waits {
            asked: Some(asked),
            longest: Box::pin(tokio::time::sleep(longest)),
        };
        let outgoing = Self {
            body,
            waits: Some(waits),
            progress: Progress::new(HELD),
        };
        (outgoing, Gate(Arc::new(Mutex::new(Some(open)))))
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

/// hyper drops it at its end.
impl Drop for Outgoing {
    fn drop(&mut self) {
        *self.progress.since.lock() = Instant::now();
        self.progress.state.store(ENDED, Ordering::Release);
    }
}

impl Gate {
    pub(in super::super) fn open(&self) {
        if let Some(open) = self.0.lock().take() {
            let _ = open.send(());
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(waits) = &mut self.waits {
            let asked = waits.asked.as_mut().map(|asked| Pin::new(asked).poll(cx));
            if let Some(Poll::Ready(Err(_))) = asked {
                // Nobody opens the gate any more.
                waits.asked = None;
            }
            if !matches!(asked, Some(Poll::Ready(Ok(())))) {
                ready!(waits.longest.as_mut().poll(cx));
            }
            let flows = self
                .progress
                .state
                .compare_exchange(HELD, FLOWS, Ordering::AcqRel, Ordering::Acquire);
            if flows.is_err() {
                return Poll::Pending;
            }
            self.waits = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
