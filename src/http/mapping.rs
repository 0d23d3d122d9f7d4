//! From the errors of this crate to the problems that a client is answered with.
//!
//! Two rules. A client is told what it can act on and nothing else: no source of an error, no name of a table, no other
//! tenant's key. And what it does next must be safe: it is told to repeat a request only with the same key, and it is
//! not told to make a new key where that could do the operation twice.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::key::KeyError;
use super::kind::described;
use super::problem::Problem;
use crate::group;
use crate::idempotency::{self, Effect, RollbackKind, StepError};
use crate::identity::IdentityError;
use crate::store::StoreError;

/// When to come back after trouble whose end is not known.
const SOON: Duration = Duration::from_secs(1);

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let kind = match error {
            KeyError::Missing { .. } => described::KEY_MISSING,
            KeyError::Body { .. } => described::BODY_MALFORMED,
            _ => described::KEY_MALFORMED,
        };
        Self::of_kind(kind).with_detail(sentence(&error))
    }
}

impl From<IdentityError> for Problem {
    /// A key, or a part of a scope, that came with the request and is not valid becomes a 400.
    ///
    /// A part of a scope that is empty, and a malformed fingerprint, are the service's own doing: they become a 500. A
    /// service that takes a tenant from the client checks by itself whether there is one.
    fn from(error: IdentityError) -> Self {
        let kind = match error {
            IdentityError::ScopePartEmpty { .. } | IdentityError::FingerprintMalformed => {
                return internal(Effect::Nothing);
            }
            IdentityError::ScopeCharacter { .. } | IdentityError::ScopeTooLong { .. } => described::SCOPE_MALFORMED,
            _ => described::KEY_MALFORMED,
        };
        Self::of_kind(kind).with_detail(sentence(&error))
    }
}

impl From<idempotency::Error> for Problem {
    /// Maps the error by the table in [`kind`](super::kind). The member `effect` says `nothing`, `done` or `unknown`: what
    /// is known of the operation itself ([`Error::effect`](idempotency::Error::effect)).
    ///
    /// The error is for the log, with its sources; none of that is in the problem.
    fn from(error: idempotency::Error) -> Self {
        use idempotency::ErrorKind;
        let effect = error.effect();
        let problem = match error.kind() {
            ErrorKind::Conflict => key_reused(),
            ErrorKind::InProgress { retry_after } => in_progress(*retry_after),
            // The holder that took over records an answer, or leaves the request in doubt: in both cases it is there to
            // ask for.
            ErrorKind::LeaseLost => in_progress(SOON),
            ErrorKind::InDoubt { .. } => in_doubt(
                "An earlier attempt broke off, and the service does not guess what it did. Ask the service's \
                 operator, and keep the key: under a new one the operation might be done twice.",
            ),
            ErrorKind::Stopped(stopped) => stopped_at(stopped, effect),
            ErrorKind::NotDone(_) => {
                not_done("The operation could not be carried out at the moment. Repeat the request with the same key.")
                    .with_retry_after(SOON)
            }
            ErrorKind::Unknown(_) => Self::of_kind(described::OUTCOME_UNKNOWN)
                .with_detail(
                    "Something that the operation depends on did not answer, and it may take effect yet. Repeat the \
                     request with the same key after the time in Retry-After. The answer says what became of it, or that the \
                     service's operator has to find out. Under a new key it might be done twice.",
                )
                .with_retry_after(error.retry_after().unwrap_or(SOON).max(SOON)),
            // What is wrong with the request, the handler would have said. It has no answer to what its database
            // rejects, and that is a bug (RFC 9110, 15.6.1). 409 and 422 tell the client that it can mend something,
            // 503 that it passes.
            ErrorKind::RolledBack {
                kind: RollbackKind::Violation,
                ..
            } => internal(effect),
            // The commit failed, for want of a lock perhaps: that passes.
            ErrorKind::RolledBack { source, .. } if source.is::<StoreError>() => unavailable(),
            ErrorKind::RolledBack { .. } => not_done(
                "The operation failed and was undone as a whole. It is safe to repeat the request with the same key; if \
                 it fails again, tell the operator.",
            )
            .with_retry_after(SOON),
            ErrorKind::Unrecorded(_) => unavailable(),
            ErrorKind::Store(source) => match source {
                StoreError::CommittedByWork => in_doubt(
                    "The operation may have been carried out, and the service has no record of its result. Ask the \
                     service's operator, and keep the key: under a new one the operation might be done twice.",
                ),
                StoreError::TransactionEnded
                | StoreError::TransactionEscaped
                | StoreError::Corrupt { .. }
                | StoreError::Unsupported { .. } => internal(effect),
                _ => unavailable(),
            },
            ErrorKind::Flight(source) => match source {
                group::Error::Conflict => key_reused(),
                group::Error::Overloaded(_) | group::Error::Closed | group::Error::Aborted => unavailable(),
                group::Error::Panicked(_)
                | group::Error::Reentrant
                | group::Error::NoRuntime
                | group::Error::NoTimers => internal(effect),
            },
            // Nothing of it is kept, not even a status: it was erased, or none is to be kept. That is no bug.
            ErrorKind::ResultTooLarge { limit: 0, .. } if effect == Effect::Done => nothing_kept(),
            ErrorKind::Panicked(_) | ErrorKind::ResultTooLarge { .. } | ErrorKind::Codec(_) => internal(effect),
        };
        problem.with_member(
            "effect",
            match effect {
                Effect::Nothing => "nothing",
                Effect::Done => "done",
                Effect::Unknown => "unknown",
            },
        )
    }
}

fn key_reused() -> Problem {
    Problem::of_kind(described::KEY_REUSED).with_detail(
        "This key came before, with another payload. To repeat that request, send it as it was; for a new one, make a \
         new key.",
    )
}

/// A duplicate of a request in flight that does not wait for it.
pub(super) fn in_flight() -> Problem {
    in_progress(SOON).with_member("effect", "unknown")
}

fn in_progress(retry_after: Duration) -> Problem {
    Problem::of_kind(described::IN_PROGRESS)
        .with_detail(
            "A request with this key is being executed at this moment. Repeat this one with the same key after the time \
             in Retry-After, and it will be answered with the result.",
        )
        .with_retry_after(retry_after)
}

fn in_doubt(detail: &'static str) -> Problem {
    Problem::of_kind(described::IN_DOUBT).with_detail(detail)
}

/// What a client is told of a mutation of steps that stopped before its end.
fn stopped_at(stopped: &StepError, effect: Effect) -> Problem {
    match stopped {
        StepError::Failed { .. }
        | StepError::RolledBack { .. }
        | StepError::Work { .. }
        | StepError::Behind { .. }
        | StepError::Unrecorded { .. }
        | StepError::TimeLimit { .. }
        // While a deploy is under way, a process of the other version may answer the next time.
        | StepError::Unknown { .. }
        | StepError::Stopping => unavailable(),
        StepError::OtherWorkflow { name, asked, .. } if name == asked => unavailable(),
        StepError::LeaseLost => in_progress(SOON),
        StepError::InDoubt { .. } => in_doubt(
            "A part of the operation broke off, and the service does not guess what it did. Ask the service's \
             operator, and keep the key: under a new one the operation might be done twice.",
        ),
        _ => internal(effect),
    }
}

fn not_done(detail: &'static str) -> Problem {
    Problem::of_kind(described::NOT_DONE).with_detail(detail)
}

/// What a client is told of an operation of which nothing is known but that it was carried out.
fn nothing_kept() -> Problem {
    Problem::of_kind(described::OUTCOME_ONLY).with_status(StatusCode::OK).with_detail(
        "The operation was carried out before. What it was answered is not kept, and neither is the status of that answer. Look at \
         what the operation was to change, or ask the service's operator. Do not repeat it under a new key.",
    )
}

fn unavailable() -> Problem {
    Problem::of_kind(described::UNAVAILABLE)
        .with_detail("Repeat the request with the same key after the time in Retry-After: that is safe in every case.")
        .with_retry_after(SOON)
}

pub(super) fn internal(effect: Effect) -> Problem {
    let detail = match effect {
        Effect::Nothing => {
            "The service has a bug. Nothing was done; tell the operator before you repeat the request with the same key."
        }
        Effect::Done => {
            "The service has a bug: the operation was carried out, and its result cannot be shown. Tell the operator, \
             and make no new key for it."
        }
        Effect::Unknown => {
            "The service has a bug, and the operation may have been carried out. Tell the operator, and keep the key: \
             under a new one it might be done twice."
        }
    };
    Problem::of_kind(described::INTERNAL).with_detail(detail)
}

/// Makes a sentence of an error's message, with a capital and a full stop.
fn sentence(error: &dyn fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}
