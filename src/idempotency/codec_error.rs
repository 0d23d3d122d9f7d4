//! What is wrong with a result on its way to or from the store.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::record::DecodeError;

/// What is wrong with a result on its way to or from the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CodecError {
    /// The value cannot be encoded.
    Encode(Arc<dyn StdError + Send + Sync>),
    /// The value can be encoded, but not read again. In JSON: a number that is not one (NaN), nesting that is too deep,
    /// or a `Serialize` that does not fit its `Deserialize`.
    Unreadable(Arc<dyn StdError + Send + Sync>),
    /// The recorded value cannot be read as the type that was asked for.
    Decode(Arc<dyn StdError + Send + Sync>),
    /// The value was encoded by another [codec](crate::idempotency::Codec) than the one in use.
    Foreign {
        /// The name of the codec that encoded it.
        written: Arc<str>,
        /// The name of the codec in use.
        expected: &'static str,
    },
    /// The layout of the recorded result is not known.
    Layout(DecodeError),
    /// The recorded result is compressed, and this process is built without the feature `compress`.
    Compressed,
    /// The work was done earlier. Its result could not be encoded then, or could not be read again.
    NotRecorded,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(_) => f.write_str("the codec cannot encode the result"),
            Self::Unreadable(_) => f.write_str("the result does not survive its own encoding: it cannot be read again"),
            Self::Decode(_) => f.write_str(
                "the recorded result cannot be read as the type asked for; was it another type when it was \
                 recorded?",
            ),
            Self::Foreign { written, expected } => write!(
                f,
                "the result was encoded by the codec {written:?}, and {expected:?} is in use here; have the codec read \
                 it with `decode_foreign`"
            ),
            Self::Layout(_) => f.write_str("the recorded result cannot be read"),
            Self::Compressed => {
                f.write_str("the recorded result is compressed; build this process with oneflight's feature `compress`")
            }
            Self::NotRecorded => f.write_str(
                "the result is not kept, since it could not be encoded or read again when the work was done",
            ),
        }
    }
}

impl StdError for CodecError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Encode(source) | Self::Unreadable(source) | Self::Decode(source) => Some(&**source),
            Self::Layout(source) => Some(source),
            Self::Foreign { .. } | Self::Compressed | Self::NotRecorded => None,
        }
    }
}
