//! What the layer lends a handler, as extractors of axum's: the transaction, and what is known of the execution.

use axum_core::extract::FromRequestParts;
use http::request::Parts;

use super::execute::Slot;
use crate::http::key::KeySource;
use crate::http::mapping;
use crate::http::problem::Problem;
use crate::idempotency::{Context, Tx};
use crate::store::TransactionalStore;

/// The transaction that the handler works in, under
/// [`IdempotencyLayer::transactional`](crate::http::layer::IdempotencyLayer::transactional): rows and recorded answer are one
/// commit.
///
/// It is given once to a request. It must be dropped when the handler returns, as it is where it is an argument.
impl<S: TransactionalStore, State: Send + Sync> FromRequestParts<State> for Tx<S> {
    /// [`KEY_MISSING`](crate::http::kind::KEY_MISSING) if the request carries no key: without one there is no transaction.
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Problem> {
        let slot = parts.extensions.get::<Slot<S>>();
        slot.and_then(Slot::take).ok_or_else(|| missing(parts))
    }
}

/// What the handler knows of its execution, such as the [keys](Context::downstream_key) for what it calls. Every request that a
/// layer executes has one.
impl<State: Send + Sync> FromRequestParts<State> for Context {
    /// [`KEY_MISSING`](crate::http::kind::KEY_MISSING) if the request carries no key.
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Problem> {
        let context = parts.extensions.get::<Context>().cloned();
        context.ok_or_else(|| missing(parts))
    }
}

/// Why there is nothing to lend: there is no key, or the fault is the service's.
fn missing(parts: &Parts) -> Problem {
    match parts.extensions.get::<Context>() {
        Some(_) => mapping::misplaced(),
        None => KeySource::new().missing().into(),
    }
}
