//! When a request is sent again, and after which pause.

use std::any::Any;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, Sleep, sleep_until};
#[cfg(feature = "reqwest")]
use tower::BoxError;
use tower::retry::Policy;

use super::message::{OutgoingRequest, OutgoingResponse};
use super::retry_after::retry_after;
use crate::backoff::jittered;
use crate::http::layer::IDEMPOTENCY_REPLAYED;
use crate::telemetry;

/// The limits of an [`OutgoingLayer`](super::layer::OutgoingLayer).
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How often a request is sent, the first time included.
    pub(super) tries: u32,
    /// How long after the call the last try may begin.
    pub(super) within: Duration,
    /// The pause before the second try, which is doubled before each further one.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
}

/// The tries of one request.
#[derive(Clone, Debug)]
pub(super) struct Tries {
    limits: Limits,
    /// How often the request was sent again.
    repeated: u32,
    /// When the last try may begin; never, if the request must not be sent twice.
    until: Option<Instant>,
}

impl Tries {
    /// Begins with the first try.
    pub(super) fn begin(limits: Limits, repeatable: bool) -> Self {
        let until = repeatable.then(|| {
            let now = Instant::now();
            // A limit that no clock can show is none; a century does for that.
            now.checked_add(limits.within)
                .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 24 * 60 * 60))
        });
        Self {
            limits,
            repeated: 0,
            until,
        }
    }

    /// Whether there is one left after that which is begun now.
    fn any_left(&self) -> bool {
        self.until.is_some() && self.repeated + 1 < self.limits.tries
    }

    fn pause(&self) -> Duration {
        let Limits {
            first_pause,
            longest_pause,
            ..
        } = self.limits;
        let doubled = 1_u32.checked_shl(self.repeated).unwrap_or(u32::MAX);
        jittered(first_pause.saturating_mul(doubled).min(longest_pause))
    }

    /// The pause before the next try, if there is to be one for this reason.
    fn again(&mut self, reason: Reason) -> Option<Sleep> {
        let pause = match reason {
            Reason::Final => return None,
            // On top of what the server asks for, so that those that it asked do not come back together.
            Reason::Asked(wait) => wait.saturating_add(self.pause()),
            Reason::Failed => self.pause(),
        };
        let at = Instant::now().checked_add(pause)?;
        if self.until.is_none_or(|until| at > until) {
            return None;
        }
        self.repeated += 1;
        telemetry::sent_again(self.repeated, pause);
        Some(sleep_until(at))
    }
}

/// Whether a request is to be sent again.
enum Reason {
    Final,
    Failed,
    /// Not before that time is over.
    Asked(Duration),
}

impl Reason {
    fn of_response(response: &impl OutgoingResponse) -> Self {
        // The other side has it on record, and would answer it each time.
        if response.headers().contains_key(IDEMPOTENCY_REPLAYED) {
            return Self::Final;
        }
        let asked = retry_after(response.headers()).map(Self::Asked);
        match response.status() {
            // In progress elsewhere. Without a time, it is the business's own conflict.
            StatusCode::CONFLICT => asked.unwrap_or(Self::Final),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => asked.unwrap_or(Self::Failed),
            _ => Self::Final,
        }
    }

    /// A client's errors are those of its connection, so that the next one may do. Some that reqwest tells apart are of
    /// another kind.
    fn of_error(error: &dyn Any) -> Self {
        match is_of_the_request(error) {
            true => Self::Final,
            false => Self::Failed,
        }
    }
}

/// Whether reqwest says that it cannot send this request, over whichever connection, or that it has its answer. The error
/// may be in a box, as other layers have it.
#[cfg(feature = "reqwest")]
fn is_of_the_request(error: &dyn Any) -> bool {
    let boxed = || error.downcast_ref::<BoxError>()?.downcast_ref();
    let error: Option<&reqwest::Error> = error.downcast_ref().or_else(boxed);
    error.is_some_and(|error| error.is_builder() || error.is_redirect() || error.is_decode())
}

#[cfg(not(feature = "reqwest"))]
fn is_of_the_request(_error: &dyn Any) -> bool {
    false
}

impl<Q, A, E> Policy<Q, A, E> for Tries
where
    Q: OutgoingRequest,
    A: OutgoingResponse,
    E: 'static,
{
    type Future = Sleep;

    fn retry(&mut self, _request: &mut Q, result: &mut Result<A, E>) -> Option<Sleep> {
        self.again(match result {
            Ok(response) => Reason::of_response(response),
            Err(error) => Reason::of_error(error),
        })
    }

    fn clone_request(&mut self, request: &Q) -> Option<Q> {
        self.any_left().then(|| request.try_clone()).flatten()
    }
}
