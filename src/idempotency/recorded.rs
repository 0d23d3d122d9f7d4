//! Recorded results, read by those who look at a record rather than ask for the request.

use super::codec::{self, Codec};
use super::codec_error::CodecError;
use crate::record::{Decoded, RecordedResult};

impl RecordedResult {
    /// Reads the value that was recorded. Returns `None` if the work was done and its value is not kept.
    ///
    /// ```
    /// use oneflight::idempotency::Json;
    /// use oneflight::record::{CodecId, RecordedResult, Verdict};
    ///
    /// let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"42");
    /// assert_eq!(result.read::<u32, _>(&Json)?, Some(42));
    /// assert_eq!(RecordedResult::too_large(7, 5).read::<u32, _>(&Json)?, None);
    /// # Ok::<(), oneflight::idempotency::CodecError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The value was written by another codec, is not of this type, or is damaged.
    pub fn read<T, C: Codec<T>>(&self, codec: &C) -> Result<Option<T>, CodecError> {
        match self.decode().map_err(CodecError::Layout)? {
            Decoded::Value { codec: id, payload, .. } => codec::decode(codec, id, payload).map(Some),
            Decoded::TooLarge { .. } | Decoded::NotEncodable => Ok(None),
        }
    }
}
