//! What becomes of an answer: what a handler can say of it, and the policies that say it for all.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::response::Parts;

use super::guard::guarded;

/// What is to become of an answer. A handler says so itself by an extension of its response, of this type.
///
/// In axum it is a part of the response:
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::http::StatusCode;
/// use axum::response::IntoResponse;
/// use oneflight::http::layer::Outcome;
///
/// async fn charge() -> impl IntoResponse {
///     // Nothing was sent to the provider: the same key may be tried again.
///     (StatusCode::BAD_GATEWAY, Outcome::NothingDone, "the provider is away")
/// }
/// # let _ = charge;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The operation was done, and the answer is recorded and replayed. In a transaction, a status from 400 on rolls the rows back
    /// all the same.
    Record,
    /// The operation was done, and only that fact is recorded, with the status and the `Location`: the body is secret.
    ///
    /// Requests that share the flight get no body either.
    OutcomeOnly,
    /// Nothing was done: the answer is not recorded, and the key may be tried again. In a transaction, everything is rolled
    /// back.
    NothingDone,
    /// It is not known what was done: the answer is not recorded, and the key is in doubt. In a transaction, everything is
    /// rolled back, and the key may be tried again.
    Unknown,
}

/// Which answers are recorded, where the handler does not [say it itself](Outcome).
///
/// ```
/// use http::StatusCode;
/// use oneflight::http::layer::{Outcome, Recording};
///
/// let ours = Recording::by(|answer| match answer.status {
///     StatusCode::BAD_GATEWAY => Outcome::NothingDone,
///     _ => Outcome::Record,
/// });
/// # let _ = ours;
/// ```
#[derive(Clone)]
pub struct Recording(Policy);

#[derive(Clone)]
enum Policy {
    Answers,
    Successes,
    By(Arc<dyn Fn(&Parts) -> Outcome + Send + Sync>),
}

impl Recording {
    /// Records all that the handler answers, failures too, as
    /// [Stripe's API v1](https://docs.stripe.com/api/idempotent_requests) does. This is the default.
    ///
    /// Exceptions are 425, 429 and 503, by which a service says that it has not begun, and 408 and 504, by which a time-out
    /// *inside* of the layer says that it has dropped the handler in the middle: that is [`Outcome::Unknown`].
    ///
    /// So a handler that has done something must not answer 425, 429 or 503, unless it works in a transaction: its key would be
    /// free, and its client does it again. And a time-out inside of the layer has to answer 408 or 504.
    pub fn answers() -> Self {
        Self(Policy::Answers)
    }

    /// Records answers below 400, and has failures tried again, as
    /// [Stripe's API v2](https://docs.stripe.com/api-v2-overview#idempotency) does.
    ///
    /// It is right only where a handler that fails has done nothing, or does what it did in a
    /// [transaction](super::IdempotencyLayer::transactional). 408 and 504 are [`Outcome::Unknown`], as above.
    pub fn successes() -> Self {
        Self(Policy::Successes)
    }

    /// Asks a function, which sees the status and the headers of the answer.
    pub fn by(decide: impl Fn(&Parts) -> Outcome + Send + Sync + 'static) -> Self {
        Self(Policy::By(Arc::new(decide)))
    }

    /// Returns what is to become of an answer, by its head: what the handler [says](Outcome), or else the policy.
    ///
    /// ```
    /// use http::{Response, StatusCode};
    /// use oneflight::http::layer::{Outcome, Recording};
    ///
    /// // All answers as usual, but for one status.
    /// let usual = Recording::answers();
    /// let ours = Recording::by(move |answer| match answer.status {
    ///     StatusCode::BAD_GATEWAY => Outcome::NothingDone,
    ///     _ => usual.outcome(answer),
    /// });
    /// let (answer, ()) = Response::builder().status(503).body(())?.into_parts();
    /// assert_eq!(ours.outcome(&answer), Outcome::NothingDone);
    /// # Ok::<(), http::Error>(())
    /// ```
    #[must_use]
    pub fn outcome(&self, answer: &Parts) -> Outcome {
        self.said(answer).unwrap_or_else(|| self.of(answer))
    }

    /// Says to clients what is recorded.
    pub(super) fn in_words(&self) -> &'static str {
        match &self.0 {
            Policy::Answers => {
                "Every answer, also one that reports a failure, but for 425, 429 and 503, after which the same request is \
                 executed again under the same key"
            }
            Policy::Successes => {
                "Every answer below 400. After a failure, the same request is executed again under the same key"
            }
            Policy::By(_) => "The answers for which this service says so in its documentation of the operation",
        }
    }

    /// Returns what is to be said besides, where nothing is undone.
    pub(super) fn unknown_in_words(&self) -> &'static str {
        match &self.0 {
            Policy::Answers => ", and 408 and 504, after which it is not known what was done",
            Policy::Successes => ", but for 408 and 504, after which it is not known what was done",
            Policy::By(_) => "",
        }
    }

    /// Returns what is to be said besides, where what is not recorded is undone.
    pub(super) fn undone_in_words(&self) -> &'static str {
        match &self.0 {
            Policy::Answers | Policy::Successes => {
                " An operation that is answered with 408, or with 500 or above, is undone as a whole, and is executed again under \
                 the same key; so is one that was found invalid, with 400 to 499, before it began."
            }
            Policy::By(_) => " An operation whose answer is not kept is undone as a whole.",
        }
    }

    /// Returns what is to become of an answer by the word of the handler or of the user's function, if there is one.
    pub(super) fn said(&self, answer: &Parts) -> Option<Outcome> {
        match (answer.extensions.get::<Outcome>(), &self.0) {
            (Some(said), _) => Some(*said),
            // The operation is over: a panic of the function must not have it done again.
            (None, Policy::By(decide)) => Some(guarded(|| decide(answer)).unwrap_or(Outcome::Record)),
            (None, _) => None,
        }
    }

    /// Returns what is to become of an answer by its status.
    pub(super) fn of(&self, answer: &Parts) -> Outcome {
        match &self.0 {
            Policy::By(_) => Outcome::Record,
            _ if is_cut_off(answer.status) => Outcome::Unknown,
            Policy::Answers => match answer.status {
                StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    Outcome::NothingDone
                }
                _ => Outcome::Record,
            },
            Policy::Successes => match answer.status.as_u16() {
                400.. => Outcome::NothingDone,
                _ => Outcome::Record,
            },
        }
    }
}

/// A time-out has dropped the handler.
fn is_cut_off(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT)
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Policy::Answers => "Recording::answers()",
            Policy::Successes => "Recording::successes()",
            Policy::By(_) => "Recording::by(..)",
        })
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponseParts for Outcome {
    type Error = std::convert::Infallible;

    fn into_response_parts(
        self,
        mut answer: axum_core::response::ResponseParts,
    ) -> Result<axum_core::response::ResponseParts, Self::Error> {
        answer.extensions_mut().insert(self);
        Ok(answer)
    }
}

/// What becomes of the lines of `Set-Cookie` in an answer. They belong to a session, and are never sent to another client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cookies {
    /// They go to the client whose request was executed. The answer is recorded without them, and they are counted.
    #[default]
    Drop,
    /// An answer with such lines is recorded as an [outcome only](Outcome::OutcomeOnly).
    OutcomeOnly,
}
