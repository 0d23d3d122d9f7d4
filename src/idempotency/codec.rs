//! From a value to its recorded form and back.

use std::borrow::Cow;
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
    let payload = match codec {
        CodecId::JsonLz4 => Cow::Owned(decompress(payload)?),
        CodecId::Json | CodecId::None => Cow::Borrowed(payload),
    };
    let decoded = catch_unwind(AssertUnwindSafe(|| match codec {
        CodecId::Json | CodecId::JsonLz4 => serde_json::from_slice(&payload),
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

/// The JSON behind [`CodecId::JsonLz4`].
#[cfg(feature = "compress")]
fn decompress(payload: &[u8]) -> Result<Vec<u8>, CodecError> {
    /// One byte of a block stands for so many at most, so that a length that is not true allocates little.
    const LARGEST_RATIO: usize = 255;

    let damaged = |what: &str| CodecError::Decode(text(format!("it is compressed, and damaged: {what}")));
    let (size, block) = lz4_flex::block::uncompressed_size(payload).map_err(|_| damaged("its length is missing"))?;
    if size > block.len().saturating_mul(LARGEST_RATIO) {
        return Err(damaged("its length cannot be true"));
    }
    match lz4_flex::block::decompress(block, size) {
        Ok(json) if json.len() == size => Ok(json),
        Ok(_) => Err(damaged("its length is not true")),
        Err(_) => Err(damaged("it is no LZ4 block")),
    }
}

#[cfg(not(feature = "compress"))]
fn decompress(_: &[u8]) -> Result<Vec<u8>, CodecError> {
    Err(CodecError::Compressed)
}

/// A result compressed, if that makes it smaller.
#[cfg(feature = "compress")]
fn compressed(payload: &[u8], verdict: Verdict) -> Option<RecordedResult> {
    // Its length is written in 32 bits.
    u32::try_from(payload.len()).ok()?;
    let compressed = lz4_flex::block::compress_prepend_size(payload);
    (compressed.len() < payload.len()).then(|| RecordedResult::value(verdict, CodecId::JsonLz4, &compressed))
}

#[cfg(not(feature = "compress"))]
fn compressed(_: &[u8], _: Verdict) -> Option<RecordedResult> {
    None
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

/// How large results may be, in bytes of their JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Larger ones are not kept.
    pub(super) most: usize,
    /// Larger ones are compressed.
    pub(super) plain: usize,
}

/// Encodes a result within a limit. What cannot be read again is not replayed as something else, nor found out by the
/// first duplicate: so it is read here.
pub(super) fn prepare<T: Serialize + DeserializeOwned>(value: &T, verdict: Verdict, sizes: Sizes) -> Prepared {
    let payload = match encode(value) {
        Ok(payload) => payload,
        Err(error) => return Prepared::Failed(error),
    };
    let prepared = bounded(&payload, verdict, sizes);
    if let Prepared::Kept(_) = prepared
        && let Err(CodecError::Decode(reason)) = decode::<T>(CodecId::Json, &payload)
    {
        return Prepared::Failed(CodecError::Unreadable(reason));
    }
    prepared
}

/// Accepts an encoded result within a limit.
pub(super) fn bounded(payload: &[u8], verdict: Verdict, sizes: Sizes) -> Prepared {
    if payload.len() > sizes.most {
        return Prepared::TooLarge {
            size: payload.len() as u64,
            limit: sizes.most,
        };
    }
    let compressed = (payload.len() > sizes.plain)
        .then(|| compressed(payload, verdict))
        .flatten();
    Prepared::Kept(compressed.unwrap_or_else(|| RecordedResult::value(verdict, CodecId::Json, payload)))
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
