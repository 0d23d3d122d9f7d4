//! The error of a handler of axum's.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use axum_core::response::{IntoResponse, Response};
use http::Extensions;
use parking_lot::Mutex;

use super::outcome::Outcome;
use crate::http::key::KeyError;
use crate::http::mapping;
use crate::http::problem::Problem;
use crate::idempotency::{self, Effect};
use crate::identity::IdentityError;
use crate::telemetry;

type Reason = Box<dyn Error + Send + Sync>;

/// Why a handler of axum's has no answer: any error, by `?`.
///
/// Under an [`IdempotencyLayer`](super::IdempotencyLayer), the request ends as work does that fails:
///
/// * In a [transaction](super::IdempotencyLayer::transactional) everything is rolled back, and the key is free. The client is
///   told to try again ([`NOT_DONE`](crate::http::kind::NOT_DONE)), or, if the database rejected what the handler wrote and will
///   again, that the service has a bug ([`INTERNAL`](crate::http::kind::INTERNAL)).
/// * Under a lease, it is not known what was done
///   ([`OUTCOME_UNKNOWN`](crate::http::kind::OUTCOME_UNKNOWN)): the key is in doubt. A handler that knows better answers with an
///   [`Outcome`].
///
/// A [`Problem`] is an answer, and not a failure: a 4xx by `?` declines.
///
/// Where there is no layer, or no key, the client gets [`INTERNAL`](crate::http::kind::INTERNAL). For an error of this crate's, it
/// gets the problem that the error is turned into: a handler that reads the key and calls
/// [`Idempotency`](crate::Idempotency) itself may leave [`KeyError`], [`IdentityError`] and
/// [`idempotency::Error`] to `?`.
///
/// The error itself is never sent. It is logged under the feature `tracing`, unless the client is told that the mistake is its own.
///
/// ```
/// use axum::http::StatusCode;
/// use oneflight::http::Problem;
/// use oneflight::http::layer::Failure;
///
/// async fn place(body: String) -> Result<String, Failure> {
///     let pieces: u32 = body.parse()?;
///     if pieces > 100 {
///         let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY).with_detail("There are 100 left.");
///         return Err(problem.into());
///     }
///     Ok(format!("{pieces} ordered"))
/// }
/// # let _ = place;
/// ```
///
/// For an error that does not implement [`Error`], such as `anyhow::Error`, use [`because`](Self::because).
#[must_use = "it is to be returned"]
pub struct Failure(Kind);

enum Kind {
    Reason(Reason),
    Answer(Box<Response>),
}

impl Failure {
    /// Fails for this reason: an error or a text.
    pub fn because(reason: impl Into<Reason>) -> Self {
        Self(Kind::Reason(reason.into()))
    }

    /// Turns a request away that is not valid, with this answer: nothing was done, and the key is free.
    ///
    /// It is for what axum finds wrong only while the handler reads, such as the fields of a multipart body:
    ///
    /// ```
    /// use axum::response::{IntoResponse, Response};
    /// use oneflight::http::layer::Failure;
    ///
    /// # struct Malformed; impl IntoResponse for Malformed { fn into_response(self) -> Response { ().into_response() } }
    /// async fn upload(bytes: Result<Vec<u8>, Malformed>) -> Result<String, Failure> {
    ///     let bytes = bytes.map_err(Failure::rejected)?; // Such as `field.bytes().await`.
    ///     Ok(format!("{} bytes", bytes.len()))
    /// }
    /// # let _ = upload;
    /// ```
    pub fn rejected(answer: impl IntoResponse) -> Self {
        let mut answer = answer.into_response();
        answer.extensions_mut().insert(Outcome::NothingDone);
        Self(Kind::Answer(Box::new(answer)))
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Kind::Reason(Box::new(error)))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Reason(reason) => f.debug_tuple("Failure").field(reason).finish(),
            Kind::Answer(answer) => f.debug_tuple("Failure").field(&answer.status()).finish(),
        }
    }
}

/// The reason, on its way to the layer. What nobody takes is logged when it is dropped.
#[derive(Clone)]
struct Reported(Arc<Untaken>);

struct Untaken {
    reason: Mutex<Option<Reason>>,
    /// Whether the client is told that the mistake is the service's.
    is_ours: bool,
}

impl Drop for Untaken {
    fn drop(&mut self) {
        if let Some(reason) = self.reason.get_mut().take().filter(|_| self.is_ours) {
            telemetry::handler_failed(&*reason);
        }
    }
}

/// What the client is told where no layer takes the reason.
fn problem_of(reason: &Reason) -> Problem {
    if let Some(error) = reason.downcast_ref::<KeyError>() {
        error.clone().into()
    } else if let Some(error) = reason.downcast_ref::<IdentityError>() {
        error.clone().into()
    } else if let Some(error) = reason.downcast_ref::<idempotency::Error>() {
        error.clone().into()
    } else {
        mapping::internal(Effect::Unknown)
    }
}

/// Takes the reason out of a response of [`Failure`]'s.
pub(super) fn taken(extensions: &Extensions) -> Option<Reason> {
    extensions.get::<Reported>()?.0.reason.lock().take()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let reason = match self.0 {
            Kind::Reason(reason) => reason,
            Kind::Answer(answer) => return *answer,
        };
        match reason.downcast::<Problem>() {
            Ok(problem) => (*problem).into_response(),
            Err(reason) => {
                let mut response: Response = problem_of(&reason).into_response();
                let is_ours = !response.status().is_client_error();
                let reported = Reported(Arc::new(Untaken {
                    reason: Mutex::new(Some(reason)),
                    is_ours,
                }));
                response.extensions_mut().insert(reported);
                response
            }
        }
    }
}
