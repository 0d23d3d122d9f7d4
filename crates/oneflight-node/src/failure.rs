//! What went wrong, as data. `index.js` makes the error of it. No message has a payload in it, nor a whole key.

use napi_derive::napi;
use oneflight::idempotency::{CodecError, ErrorKind};
use oneflight::identity::IdentityError;
use oneflight::store::StoreError;
use oneflight::{Effect, Error, FlightError};

use crate::options::millis;
use crate::text::NotJson;
use crate::work::Thrown;

/// Why a call has no value.
#[napi(object)]
#[derive(Debug)]
pub struct Failure {
    /// The name of the class of the error.
    pub code: String,
    pub message: String,
    /// `nothing`, `done` or `unknown`.
    pub effect: String,
    pub retry_after_ms: Option<f64>,
    pub attempt: Option<u32>,
    /// The error that the closure threw, as JSON.
    pub thrown: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: &str, effect: Effect, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            effect: named(effect).to_owned(),
            retry_after_ms: None,
            attempt: None,
            thrown: None,
        }
    }

    pub(crate) fn store(error: &StoreError, effect: Effect) -> Self {
        Self::new("StoreFailed", effect, error.to_string())
    }

    pub(crate) fn defect(what: &str) -> Self {
        Self::new("Defect", Effect::Unknown, what)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new("InvalidArgument", Effect::Nothing, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let attempt = match error.kind() {
            ErrorKind::InDoubt { attempt } => Some(*attempt),
            _ => None,
        };
        let message = match error.kind() {
            ErrorKind::Codec(CodecError::Encode(why)) => {
                let request = error.identity().redacted();
                format!("request {request}: the work was done, and is not done again, but its value is not kept: {why}")
            }
            // The store has not failed: it was used wrongly.
            ErrorKind::Store(why @ (StoreError::CommittedByWork | StoreError::Unsupported { .. })) => {
                format!("request {}: {why}", error.identity().redacted())
            }
            _ => error.to_string(),
        };
        Self {
            retry_after_ms: error.retry_after().map(millis),
            attempt,
            thrown: error.cause::<Thrown>().map(|thrown| thrown.0.clone()),
            ..Self::new(code(&error), error.effect(), message)
        }
    }
}

fn named(effect: Effect) -> &'static str {
    match effect {
        Effect::Nothing => "nothing",
        Effect::Done => "done",
        _ => "unknown",
    }
}

fn code(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Conflict | ErrorKind::Flight(FlightError::Conflict) => "KeyReused",
        ErrorKind::InProgress { .. } => "InProgress",
        ErrorKind::InDoubt { .. } => "InDoubt",
        ErrorKind::NotDone(_) => "NotDone",
        ErrorKind::Unknown(_) => "Unknown",
        ErrorKind::ResultTooLarge { .. } => "ValueTooLarge",
        ErrorKind::Codec(CodecError::Encode(source)) if source.is::<NotJson>() => "ValueNotJson",
        ErrorKind::Codec(CodecError::NotRecorded) => "ValueNotKept",
        ErrorKind::Codec(_) => "ValueUnreadable",
        ErrorKind::LeaseLost => "LeaseLost",
        ErrorKind::Unrecorded(_) => "Unrecorded",
        ErrorKind::Stopped(_) => "Stopped",
        ErrorKind::Store(StoreError::CommittedByWork) => "TransactionEnded",
        ErrorKind::Store(StoreError::Unsupported { .. }) if error.effect() == Effect::Nothing => "InvalidArgument",
        ErrorKind::Store(_) => "StoreFailed",
        ErrorKind::Flight(FlightError::Overloaded(_)) => "Overloaded",
        ErrorKind::Flight(FlightError::Closed) => "Closed",
        ErrorKind::Flight(FlightError::Reentrant) => "Reentrant",
        _ => "Defect",
    }
}
