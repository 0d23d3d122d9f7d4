//! From a value to its recorded form and back.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CodecError;
use crate::record::{CodecId, RecordedResult, Verdict};

/// Writes a value. Code of the user's that panics meanwhile is an error: the work is done by then.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    match catch_unwind(AssertUnwindSafe(|| serde_json::to_vec(value))) {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(CodecError::Encode(Arc::new(error))),
        Err(_) => Err(CodecError::Encode(text("its Serialize panicked"))),
    }
}

/// Reads a value.
pub(super) fn decode<T: DeserializeOwned>(codec: CodecId, payload: &[u8]) -> Result<T, CodecError> {
    let decoded = catch_unwind(AssertUnwindSafe(|| match codec {
        CodecId::Json => serde_json::from_slice(payload),
        CodecId::None => serde_json::from_slice(b"null"),
    }));
    match decoded {
        Ok(Ok(value)) => Ok(value),
        // Not the error itself: its message quotes what it found, which is payload.
        Ok(Err(error)) => Err(CodecError::Decode(text(format!(
            "{:?} error at line {}, column {}",
            error.classify(),
            error.line(),
            error.column()
        )))),
        Err(_) => Err(CodecError::Decode(text("its Deserialize panicked"))),
    }
}

fn text(message: impl Into<String>) -> Arc<dyn Error + Send + Sync> {
    Box::<dyn Error + Send + Sync>::from(message.into()).into()
}

/// A result ready to be recorded, or why there is none.
pub(super) enum Prepared {
    Kept(RecordedResult),
    TooLarge { size: u64, limit: usize },
    Failed(CodecError),
}

/// Encodes a result within a limit. What cannot be read again is not replayed as something else, nor found out by the
/// first duplicate: so it is read here.
pub(super) fn prepare<T: Serialize + DeserializeOwned>(value: &T, verdict: Verdict, limit: usize) -> Prepared {
    let payload = match encode(value) {
        Ok(payload) => payload,
        Err(error) => return Prepared::Failed(error),
    };
    let prepared = bounded(&payload, verdict, limit);
    if let Prepared::Kept(_) = prepared
        && let Err(CodecError::Decode(reason)) = decode::<T>(CodecId::Json, &payload)
    {
        return Prepared::Failed(CodecError::Unreadable(reason));
    }
    prepared
}

/// Accepts an encoded result within a limit.
pub(super) fn bounded(payload: &[u8], verdict: Verdict, limit: usize) -> Prepared {
    if payload.len() > limit {
        return Prepared::TooLarge {
            size: payload.len() as u64,
            limit,
        };
    }
    Prepared::Kept(RecordedResult::value(verdict, CodecId::Json, payload))
}

impl Prepared {
    /// What is recorded of work that was done, and the reason if that is not its result.
    pub(super) fn of_done(self) -> (RecordedResult, Option<CodecError>) {
        match self {
            Self::Kept(result) => (result, None),
            Self::TooLarge { size, limit } => (RecordedResult::too_large(size, limit as u64), None),
            Self::Failed(error) => (RecordedResult::not_encodable(), Some(error)),
        }
    }
}
