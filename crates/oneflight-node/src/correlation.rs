//! The correlation id of a call, which JavaScript keeps in an `AsyncLocalStorage` and Rust in a task-local.

use napi_derive::napi;
use oneflight::Effect;
use oneflight::correlation::{self, CorrelationId};

use crate::failure::Failure;

/// Says what is wrong with a correlation id, if anything is.
#[napi(catch_unwind)]
pub fn check_correlation_id(text: String) -> Option<String> {
    CorrelationId::new(text).err().map(|error| error.to_string())
}

/// Validates an id, if there is one.
pub(crate) fn validated(text: Option<&str>) -> Result<Option<CorrelationId>, Failure> {
    let invalid =
        |error: correlation::CorrelationIdError| Failure::new("InvalidArgument", Effect::Nothing, error.to_string());
    text.map(CorrelationId::new).transpose().map_err(invalid)
}

/// Makes this the current id while the closure runs, if there is one.
pub(crate) fn within<R>(id: Option<&CorrelationId>, closure: impl FnOnce() -> R) -> R {
    match id {
        Some(id) => correlation::in_scope(id.clone(), closure),
        None => closure(),
    }
}
