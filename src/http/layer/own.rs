//! The answer as the client gets it whose request is executed.
//!
//! The work leaves it, and the call that asked for the work takes it: when the work is over, or, if the answer
//! [streams through](super::IdempotencyLayer::stream_through), as soon as it has begun. If that client has hung up, it goes with the
//! work.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Response, response};
use parking_lot::Mutex;

use super::body::{FromBody, Part, Whole};
use super::through::Through;

/// The place where the answer is left.
pub(super) struct Own<A: FromBody>(Arc<Mutex<Place<A>>>);

struct Place<A: FromBody> {
    answer: Option<OwnAnswer<A>>,
    /// Of the call that waits for an answer to begin.
    waits: Option<Waker>,
}

pub(super) struct OwnAnswer<A: FromBody> {
    pub(super) parts: response::Parts,
    pub(super) body: OwnBody<A>,
}

pub(super) enum OwnBody<A: FromBody> {
    Whole(Whole),
    Part(Part<A>),
    /// It comes while the work goes on.
    Through {
        body: Through<A>,
        /// Whether it is to be recorded, as far as the handler and the policy have a say.
        is_recorded: bool,
    },
}

impl<A: FromBody> Own<A> {
    pub(super) fn leave(&self, answer: OwnAnswer<A>) {
        let mut place = self.0.lock();
        place.answer = Some(answer);
        let waits = place.waits.take();
        drop(place);
        if let Some(waits) = waits {
            waits.wake();
        }
    }

    pub(super) fn take(&self) -> Option<OwnAnswer<A>> {
        self.0.lock().answer.take()
    }

    /// Waits for an answer that streams through.
    pub(super) fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<OwnAnswer<A>> {
        let mut place = self.0.lock();
        if let Some(OwnBody::Through { .. }) = place.answer.as_ref().map(|answer| &answer.body)
            && let Some(answer) = place.answer.take()
        {
            return Poll::Ready(answer);
        }
        place.waits = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<A: FromBody> Clone for Own<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: FromBody> Default for Own<A> {
    fn default() -> Self {
        let place = Place {
            answer: None,
            waits: None,
        };
        Self(Arc::new(Mutex::new(place)))
    }
}

impl<A: FromBody<Error: Send>> From<OwnAnswer<A>> for Response<A> {
    fn from(own: OwnAnswer<A>) -> Self {
        let body = match own.body {
            OwnBody::Whole(whole) => whole.into_body(),
            OwnBody::Part(part) => part.into_body(),
            OwnBody::Through { body, .. } => A::from_body(body),
        };
        Self::from_parts(own.parts, body)
    }
}
