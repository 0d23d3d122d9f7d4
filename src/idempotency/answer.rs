//! Answers to questions that are put to the store: there is one in every case.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::flight::Panicked;
use crate::store::StoreError;
use crate::timer::{Until, within};
use crate::unwind::{CatchUnwind, Payload, catch};

/// Returns the answer to a question, or an error if there is none within the limit.
pub(super) fn answer_within<A: Future>(limit: Duration, asked: A) -> Answer<A> {
    let asked = within(limit, catch(asked));
    Answer { asked, limit }
}

/// Returns the answer to a question, or an error if the store panics. It has no limit, and so no timer.
pub(super) fn caught<A: Future>(asked: A) -> Caught<A> {
    Caught { asked: catch(asked) }
}

pin_project! {
    /// See [`caught`].
    pub(super) struct Caught<A> {
        #[pin]
        asked: CatchUnwind<A>,
    }
}

impl<T, A: Future<Output = Result<T, StoreError>>> Future for Caught<A> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = ready!(self.project().asked.poll(cx));
        Poll::Ready(asked.unwrap_or_else(|panic| Err(panicked(panic))))
    }
}

pin_project! {
    /// See [`answer_within`].
    pub(super) struct Answer<A> {
        #[pin]
        asked: Until<CatchUnwind<A>>,
        limit: Duration,
    }
}

impl<T, A: Future<Output = Result<T, StoreError>>> Future for Answer<A> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.asked.poll(cx)) {
            Some(Ok(answered)) => answered,
            Some(Err(panic)) => Err(panicked(panic)),
            None => Err(silent(*this.limit)),
        })
    }
}

/// The error that stands for a panic of the store's.
fn panicked(panic: Payload) -> StoreError {
    let panic = Panicked::from_payload(panic);
    StoreError::unavailable(format!("the store panicked: {}", panic.message()))
}

/// The error that stands for a missing answer.
pub(super) fn silent(waited: Duration) -> StoreError {
    StoreError::unavailable(format!("the store did not answer within {waited:?}"))
}

/// Returns whether the store may have done what was asked.
pub(super) fn may_have_landed(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable { .. } | StoreError::TooFewReplicas { .. } => true,
        StoreError::Failed { failure, .. } => !failure.is_before_all(),
        _ => false,
    }
}
