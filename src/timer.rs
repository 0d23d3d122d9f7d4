//! Time limits that hold wherever a flight is polled, and never panic.
//!
//! A timer of tokio's belongs to the runtime on which it was made. It panics if it is made where there is no runtime,
//! or polled when its runtime is gone. It never ends if its runtime is not driven. But a flight may be polled on one
//! runtime after another, or by an executor without one. So a [`Timer`] is made anew wherever it is polled. Where there
//! are no timers it says so, and what was to be limited is waited for without a limit.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::group;

/// Returns the runtime that polls this, if it has timers.
pub(crate) fn runtime() -> Result<Handle, group::Error> {
    let runtime = Handle::try_current().map_err(|_| group::Error::NoRuntime)?;
    match make(Instant::now()) {
        Some(_) => Ok(runtime),
        None => Err(group::Error::NoTimers),
    }
}

/// Returns the instant that is so far from now, or one in some 30 years if that cannot be told.
pub(crate) fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration)
        .unwrap_or_else(|| now + Duration::from_secs(1_000_000_000))
}

/// Makes a timer of the runtime that is entered, if it has timers. There is no other way to find out.
fn make(at: Instant) -> Option<Sleep> {
    catch_unwind(|| sleep_until(at)).ok()
}

pin_project! {
    /// Is ready at an instant.
    pub(crate) struct Timer {
        at: Instant,
        // The runtime on which it was last polled.
        on: Option<Id>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

/// There are no timers where this was polled.
#[derive(Debug)]
pub(crate) struct NoTimers;

impl Timer {
    pub(crate) fn at(at: Instant) -> Self {
        Self {
            at,
            on: None,
            sleep: None,
        }
    }

    /// Makes a timer of this runtime, for use where there may be none.
    pub(crate) fn of(runtime: &Handle, at: Instant) -> Self {
        let _entered = runtime.enter();
        Self {
            sleep: make(at),
            ..Self::at(at)
        }
    }

    pub(crate) fn set(self: Pin<&mut Self>, at: Instant) {
        let mut this = self.project();
        *this.at = at;
        *this.on = None;
        this.sleep.set(None);
    }
}

impl Future for Timer {
    type Output = Result<(), NoTimers>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let here = Handle::try_current().ok().map(|here| here.id());
        loop {
            if here.is_some() && here != *this.on {
                *this.on = here;
                if let Some(sleep) = make(*this.at) {
                    this.sleep.set(Some(sleep));
                }
            }
            let Some(sleep) = this.sleep.as_mut().as_pin_mut() else {
                return Poll::Ready(match Instant::now() >= *this.at {
                    true => Ok(()),
                    false => Err(NoTimers),
                });
            };
            match catch_unwind(AssertUnwindSafe(|| sleep.poll(cx))) {
                Ok(polled) => return polled.map(Ok),
                // Its runtime is gone. This may be another one, under the same number.
                Err(_) => {
                    this.sleep.set(None);
                    *this.on = None;
                }
            }
        }
    }
}

/// Waits for the answer, up to a limit; where there are no timers, for as long as it takes.
pub(crate) fn within<A: Future>(limit: Duration, answer: A) -> Until<A> {
    until(after(limit), answer)
}

/// Waits for the answer, up to an instant.
pub(crate) fn until<A: Future>(at: Instant, answer: A) -> Until<A> {
    let timer = Timer::at(at);
    Until { answer, timer }
}

pin_project! {
    /// A wait that ends at an instant. Not an `async fn`, which would hold what it waits for twice.
    pub(crate) struct Until<A> {
        #[pin]
        answer: A,
        #[pin]
        timer: Timer,
    }
}

impl<A: Future> Future for Until<A> {
    type Output = Option<A::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.answer.poll(cx) {
            return Poll::Ready(Some(answer));
        }
        match this.timer.poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(NoTimers)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Pauses for so long; where there are no timers, for a turn.
pub(crate) async fn pause(duration: Duration) {
    if let Err(NoTimers) = Timer::at(after(duration)).await {
        tokio::task::yield_now().await;
    }
}

/// Waits until so much time is over; where there are no timers, forever.
#[cfg(feature = "http")]
pub(crate) async fn over(duration: Duration) {
    if let Err(NoTimers) = Timer::at(after(duration)).await {
        std::future::pending().await
    }
}
