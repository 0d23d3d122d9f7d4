//! Keeps panics of code that is not ours from unwinding through code that has something left to do.

#[cfg(feature = "durable")]
pub(crate) use self::caught::{CatchUnwind, Payload, catch};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `act` and lets no panic out. It is for destructors and wakers that are not ours: the panic hook has reported their
/// panic, which must not keep the code that calls them from what it has left to do.
pub(crate) fn quietly(act: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(act))
        && let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic)))
    {
        // Even the payload's destructor panicked: only forgetting is certain to be quiet.
        std::mem::forget(panic);
    }
}

#[cfg(feature = "durable")]
mod caught {
    use pin_project_lite::pin_project;
    use std::any::Any;
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// What a panic carries.
    pub(crate) type Payload = Box<dyn Any + Send>;

    pin_project! {
        /// The future of [`catch`].
        pub(crate) struct CatchUnwind<W> {
            #[pin]
            work: W,
        }
    }

    /// Makes a panic of `work` a value, so that the claim can be concluded before the panic goes on. The work is not polled
    /// after it panicked, so it is never seen half-way.
    pub(crate) fn catch<W: Future>(work: W) -> CatchUnwind<W> {
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
}
