//! What a check says of a store that does not pass it.

use std::fmt;

use oneflight::store::{ClaimOutcome, Denied, StoreError};

/// A promise that the store does not keep.
#[derive(Debug)]
pub struct Failure {
    pub(super) check: &'static str,
    pub(super) what: String,
    pub(super) source: Option<StoreError>,
}

impl Failure {
    /// Returns the name of the check that failed.
    #[must_use]
    pub fn check(&self) -> &'static str {
        self.check
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store fails `{}`: {}", self.check, self.what)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Names the outcome of a claim for messages, without payload.
pub(super) fn name<C>(outcome: &ClaimOutcome<C>) -> &'static str {
    match outcome {
        ClaimOutcome::Granted(_) => "granted",
        ClaimOutcome::Denied(Denied::Completed(_)) => "completed",
        ClaimOutcome::Denied(Denied::InProgress { .. }) => "in progress",
        ClaimOutcome::Denied(Denied::Conflict) => "conflict",
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => "in doubt",
        ClaimOutcome::Denied(_) => "denied",
    }
}
