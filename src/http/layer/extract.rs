//! What the layer lends a handler, as extractors of axum's: the transaction, and what is known of the execution.

use axum_core::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use super::execute::Slot;
use super::outcome::Outcome;
use crate::http::key::{IDEMPOTENCY_KEY, KeySource};
use crate::http::mapping;
use crate::http::problem::Problem;
use crate::idempotency::{Context, Effect, Tx};
use crate::store::TransactionalStore;
use crate::telemetry;

/// The transaction that the handler works in, under
/// [`IdempotencyLayer::transactional`](crate::http::layer::IdempotencyLayer::transactional): rows and recorded answer are one
/// commit.
///
/// It is given once to a request. It must be dropped when the handler returns, as it is where it is an argument.
impl<S: TransactionalStore, State: Send + Sync> FromRequestParts<State> for Tx<S> {
    /// [`KEY_MISSING`](crate::http::kind::KEY_MISSING) if the request carries no key: without one there is no transaction. Nothing
    /// was done then.
    type Rejection = (Outcome, Problem);

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Self::Rejection> {
        let slot = parts.extensions.get::<Slot<S>>();
        slot.and_then(Slot::take).ok_or_else(|| missing(parts))
    }
}

/// The transaction of a request that need not carry a key: `None` if it carries none.
impl<S: TransactionalStore, State: Send + Sync> OptionalFromRequestParts<State> for Tx<S> {
    /// As for the transaction itself.
    type Rejection = (Outcome, Problem);

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Option<Self>, Self::Rejection> {
        let is_keyless = parts.extensions.get::<Context>().is_none() && !parts.headers.contains_key(IDEMPOTENCY_KEY);
        match is_keyless {
            true => Ok(None),
            false => <Self as FromRequestParts<State>>::from_request_parts(parts, state)
                .await
                .map(Some),
        }
    }
}

/// What the handler knows of its execution, such as the [keys](Context::downstream_key) for what it calls. Every request that a
/// layer executes has one.
impl<State: Send + Sync> FromRequestParts<State> for Context {
    /// [`KEY_MISSING`](crate::http::kind::KEY_MISSING) if the request carries no key. Nothing was done then.
    type Rejection = (Outcome, Problem);

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Self::Rejection> {
        let context = parts.extensions.get::<Context>().cloned();
        context.ok_or_else(|| missing(parts))
    }
}

/// Has another extractor's rejection free the key: the request is not valid, and nothing was done.
///
/// Under a lease, all that a handler answers is recorded, and what its extractors answer as well: a client that corrects its
/// request has to make a new key for it. With this, it may keep the key. In a
/// [transaction](crate::http::layer::IdempotencyLayer::transactional) there is no need for it.
///
/// ```
/// use axum::extract::Json;
/// use oneflight::http::layer::Checked;
///
/// async fn charge(Checked(Json(cents)): Checked<Json<u64>>) -> String {
///     format!("charged: {cents}")
/// }
/// # let _ = charge;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked<E>(pub E);

impl<E, State> FromRequest<State> for Checked<E>
where
    E: FromRequest<State>,
    State: Send + Sync,
{
    /// What the other extractor answers.
    type Rejection = Response;

    async fn from_request(request: Request, state: &State) -> Result<Self, Response> {
        let extracted = E::from_request(request, state).await;
        extracted.map(Self).map_err(rejected)
    }
}

impl<E, State> FromRequestParts<State> for Checked<E>
where
    E: FromRequestParts<State>,
    State: Send + Sync,
{
    /// What the other extractor answers.
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Response> {
        let extracted = E::from_request_parts(parts, state).await;
        extracted.map(Self).map_err(rejected)
    }
}

fn rejected(rejection: impl IntoResponse) -> Response {
    let mut response = rejection.into_response();
    response.extensions_mut().insert(Outcome::NothingDone);
    response
}

/// Why there is nothing to lend: there is no key, or the fault is the service's.
fn missing(parts: &Parts) -> (Outcome, Problem) {
    let problem = match parts.extensions.get::<Context>() {
        Some(_) => misplaced("its layer is not `transactional` with the `Tx`'s store, or the `Tx` was taken before"),
        None if parts.headers.contains_key(IDEMPOTENCY_KEY) => {
            misplaced("no IdempotencyLayer is around the handler, or it leaves this method or request out")
        }
        None => KeySource::new().missing().into(),
    };
    (Outcome::NothingDone, problem)
}

/// What a client is told where a handler takes what there is not, for this reason: that is the service's doing.
fn misplaced(reason: &str) -> Problem {
    telemetry::misplaced(reason);
    mapping::internal(Effect::Nothing)
}
