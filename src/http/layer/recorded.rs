//! Recorded answers, as an operator reads them.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::answer::{Answer, plain};
use crate::idempotency::{CodecError, Format};
use crate::record::{Decoded, RecordedResult};

/// An answer of the [layer](super::IdempotencyLayer), as it is recorded.
///
/// ```
/// use oneflight::http::layer::RecordedAnswer;
/// use oneflight::record::{CodecId, RecordedResult, Verdict};
///
/// // What was recorded without the layer is no answer of it.
/// let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"42");
/// assert!(RecordedAnswer::read(&result)?.is_none());
/// # Ok::<(), oneflight::idempotency::CodecError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RecordedAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers that are replayed.
    pub headers: HeaderMap,
    /// The body. `None` if only the outcome is kept.
    pub body: Option<Bytes>,
    /// When the answer was given, by the clock of the machine that gave it.
    pub at: SystemTime,
}

impl RecordedAnswer {
    /// Reads an answer. Returns `None` for a result that the layer has not recorded, or has recorded by a codec of the user's.
    ///
    /// # Errors
    ///
    /// The answer is damaged, or was recorded by a version of this crate that knows more.
    pub fn read(result: &RecordedResult) -> Result<Option<Self>, CodecError> {
        let answers = plain();
        let is_answer = matches!(result.decode(), Ok(Decoded::Value { codec, .. }) if codec.name() == name(&answers));
        if !is_answer {
            return Ok(None);
        }
        let read = result.read::<Answer, _>(&answers)?;
        Ok(read.map(|answer| Self {
            status: answer.status,
            headers: answer.headers,
            body: answer.body.map(|body| body.bytes),
            at: answer.at,
        }))
    }
}

fn name<F: Format>(_: &F) -> &'static str {
    F::NAME
}

/// Shows the status and the size, never the content.
impl std::fmt::Debug for RecordedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordedAnswer")
            .field("status", &self.status)
            .field("bytes", &self.body.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}
