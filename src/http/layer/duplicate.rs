//! Whether a request is a duplicate of one in flight, and how long it waits then.
//!
//! ```text
//! held ──called──▶ begun: this request is executed
//!   └────dropped─▶ left: another one is, or was
//! ```
//!
//! A call drops its work when it joins another one, which is how this is seen.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::timer::over;

/// The request is answered by another one, which takes longer than this one waits.
pub(super) struct Turned;

/// Tells whether the work was left.
pub(super) struct Turn {
    left: Arc<AtomicBool>,
}

/// Says that the work was left when this is dropped without having been called.
struct Watch {
    left: Arc<AtomicBool>,
    is_called: bool,
}

/// Returns work that tells whether it was left.
pub(super) fn watched<L, T>(work: impl FnOnce(L) -> T) -> (Turn, impl FnOnce(L) -> T) {
    let left = Arc::new(AtomicBool::new(false));
    let turn = Turn {
        left: Arc::clone(&left),
    };
    let mut watch = Watch { left, is_called: false };
    let watched = move |lent| {
        watch.called();
        work(lent)
    };
    (turn, watched)
}

impl Turn {
    /// Returns what becomes of a request, unless it is a duplicate of one that takes longer than `wait`.
    pub(super) async fn within<F: Future>(self, wait: Duration, executed: F) -> Result<F::Output, Turned> {
        let (mut executed, mut waited) = (pin!(executed), pin!(over(wait)));
        let mut is_over = wait.is_zero();
        poll_fn(|cx| {
            if let Poll::Ready(output) = executed.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            is_over = is_over || waited.as_mut().poll(cx).is_ready();
            match is_over && self.left.load(Ordering::Acquire) {
                true => Poll::Ready(Err(Turned)),
                false => Poll::Pending,
            }
        })
        .await
    }
}

impl Watch {
    fn called(&mut self) {
        self.is_called = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.is_called {
            self.left.store(true, Ordering::Release);
        }
    }
}
