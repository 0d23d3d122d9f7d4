//! Functions of the user's that the layer calls: one that panics turns its request away, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::flight::Panicked;
use crate::http::mapping;
use crate::http::problem::Problem;
use crate::idempotency::Effect;
use crate::telemetry;

/// Calls a function of the user's. If it panics, the fault is the service's, and the request is not executed.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        telemetry::panicked(Panicked::from_payload(panic).message());
        mapping::internal(Effect::Nothing)
    })
}
