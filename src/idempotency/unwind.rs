//! A future whose panic is a value, so that the claim can be seen to before the panic goes on.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// What a panic carries.
pub(super) type Payload = Box<dyn Any + Send>;

pin_project! {
    pub(super) struct CatchUnwind<W> {
        #[pin]
        work: W,
    }
}

/// Catches a panic of `work`. The work is not polled after it panicked, so nobody sees it half-way.
pub(super) fn catch<W: Future>(work: W) -> CatchUnwind<W> {
    CatchUnwind { work }
}

impl<W: Future> Future for CatchUnwind<W> {
    type Output = Result<W::Output, Payload>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.project().work;
        match catch_unwind(AssertUnwindSafe(|| work.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    }
}
