//! The body of a request on its way to a backend.
//!
//! It says when it is over, and where the client waits to be asked for it, it is not begun before the backend asks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::super::body::{Body, BoxError};

/// The body of a request to a backend.
pub(in super::super) struct Outgoing {
    body: Body,
    waits: Option<Waits>,
    ended: Option<Ended>,
}

/// Sets its flag when the body is dropped, which hyper does at its end.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Opens a body that waits to be asked for.
#[derive(Clone)]
pub(in super::super) struct Gate(Arc<Mutex<Option<oneshot::Sender<()>>>>);

struct Waits {
    asked: oneshot::Receiver<()>,
    /// A backend that does not know of `Expect` never asks.
    longest: Pin<Box<Sleep>>,
}

impl Outgoing {
    pub(in super::super) fn new(body: Body) -> Self {
        Self {
            body,
            waits: None,
            ended: None,
        }
    }

    /// Holds the body back until the gate is opened, or for so long.
    pub(in super::super) fn gated(body: Body, longest: Duration) -> (Self, Gate) {
        let (open, asked) = oneshot::channel();
        let waits = Waits {
            asked,
            longest: Box::pin(tokio::time::sleep(longest)),
        };
        let outgoing = Self {
            waits: Some(waits),
            ..Self::new(body)
        };
        (outgoing, Gate(Arc::new(Mutex::new(Some(open)))))
    }

    /// Returns what tells whether all of it was taken. An empty body is not even begun.
    pub(super) fn watched(&mut self) -> Option<Arc<AtomicBool>> {
        if self.body.is_end_stream() {
            return None;
        }
        let flag = Arc::new(AtomicBool::new(false));
        self.ended = Some(Ended(Arc::clone(&flag)));
        Some(flag)
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
            // A gate that is gone was opened, or never will be.
            if Pin::new(&mut waits.asked).poll(cx).is_pending() {
                ready!(waits.longest.as_mut().poll(cx));
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
