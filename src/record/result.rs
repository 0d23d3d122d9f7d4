//! The encoded form of a result: what a store keeps and does not look into.
//!
//! ```text
//! byte 0     version of this layout: 1
//! byte 1     0 performed, 1 declined, 2 performed but too large to keep, 3 performed but not encodable
//! byte 2     codec of the payload: 0 none, 1 JSON, 2 JSON compressed with LZ4, 3 named, 4 named and compressed with LZ4
//! byte 3..   payload; for "too large" the size that it had and the limit that it exceeded, each as 8 bytes, big-endian
//!
//! A payload of a named codec follows its name: one byte that counts the bytes of the name, 1 to 255, and the name in UTF-8.
//! ```
//!
//! A reader that meets a version, kind or codec that it does not know says so and touches nothing: an older process may
//! run beside a newer one during a deployment.

use std::fmt;
use std::iter::repeat_n;
use std::sync::Arc;

const VERSION: u8 = 1;
const HEADER: usize = 3;

const PERFORMED: u8 = 0;
const DECLINED: u8 = 1;
const TOO_LARGE: u8 = 2;
const NOT_ENCODABLE: u8 = 3;

/// The name of the form in which the HTTP layer records an answer.
pub(crate) const HTTP: &str = "oneflight.http";
/// What an erased answer of the HTTP layer ends with: that there are neither header lines nor a body (one zero each), and a
/// word that a reader passes over. No other answer ends so: what ends in a letter ends in a trailer, and none has a zero.
const ERASED: &[u8] = b"\0erased";
/// The length of the longest erased answer of the HTTP layer.
const LONGEST_ERASED: usize = 48;

/// How a result's payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodecId<'a> {
    /// There is no payload.
    None,
    /// JSON, as `serde_json` writes it.
    Json,
    /// [`Json`](Self::Json), compressed: its length in 32 bits, the lowest byte first, and an
    /// [LZ4 block](https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md).
    JsonLz4,
    /// Bytes of a [codec of the user's](crate::idempotency::Codec), under its name. Made by [`named`](Self::named).
    #[non_exhaustive]
    Named(&'a str),
    /// [`Named`](Self::Named), compressed as [`JsonLz4`](Self::JsonLz4) is.
    #[non_exhaustive]
    NamedLz4(&'a str),
}

/// The name of [`CodecId::Json`].
pub(crate) const JSON: &str = "json";

impl<'a> CodecId<'a> {
    /// Returns the mark of the codec with this name: [`Json`](Self::Json) for `json`. Returns `None` for a name that is
    /// empty or has more than 255 bytes.
    ///
    /// ```
    /// use oneflight::record::CodecId;
    ///
    /// assert_eq!(CodecId::named("json"), Some(CodecId::Json));
    /// assert_eq!(CodecId::named("acme.order").map(|it| it.name()), Some("acme.order"));
    /// assert_eq!(CodecId::named(""), None);
    /// ```
    #[must_use]
    pub const fn named(name: &'a str) -> Option<Self> {
        match name.as_bytes() {
            b"json" => Some(Self::Json),
            [] => None,
            bytes if bytes.len() > u8::MAX as usize => None,
            _ => Some(Self::Named(name)),
        }
    }

    /// Returns the name of the codec, compressed or not. A result without a payload counts as the `null` of JSON.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        match self {
            Self::None | Self::Json | Self::JsonLz4 => JSON,
            Self::Named(name) | Self::NamedLz4(name) => name,
        }
    }

    /// Returns the same codec, with its payload compressed.
    #[must_use]
    pub const fn compressed(self) -> Self {
        match self {
            Self::None | Self::Json | Self::JsonLz4 => Self::JsonLz4,
            Self::Named(name) | Self::NamedLz4(name) => Self::NamedLz4(name),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Json => 1,
            Self::JsonLz4 => 2,
            Self::Named(_) => 3,
            Self::NamedLz4(_) => 4,
        }
    }
}

/// What the work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The work was done.
    Performed,
    /// The work in a transaction was declined for good: the answer is kept, its rows were rolled back.
    Declined,
}

/// A recorded result, decoded as far as its header.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded<'a> {
    /// There is a value to replay.
    Value {
        /// What the work came to.
        verdict: Verdict,
        /// How the payload is written.
        codec: CodecId<'a>,
        /// The encoded value.
        payload: &'a [u8],
    },
    /// The work was done, but its result was larger than the limit and is not kept.
    TooLarge {
        /// The encoded size, in bytes.
        size: u64,
        /// The limit at the time, in bytes.
        limit: u64,
    },
    /// The work was done, but its result could not be encoded, or not be decoded again.
    NotEncodable,
}

impl fmt::Debug for Decoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value {
                verdict,
                codec,
                payload,
            } => f
                .debug_struct("Value")
                .field("verdict", verdict)
                .field("codec", codec)
                .field("bytes", &payload.len())
                .finish(),
            Self::TooLarge { size, limit } => f
                .debug_struct("TooLarge")
                .field("size", size)
                .field("limit", limit)
                .finish(),
            Self::NotEncodable => f.write_str("NotEncodable"),
        }
    }
}

/// A result in the form in which it is kept. Cloning counts a reference.
///
/// ```
/// use oneflight::record::{CodecId, Decoded, RecordedResult, Verdict};
///
/// let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"42");
/// let stored = result.as_bytes().to_vec();
///
/// let read = RecordedResult::from_stored(stored);
/// assert!(matches!(read.decode()?, Decoded::Value { payload: b"42", .. }));
///
/// // What cannot be understood is an error, never a guess.
/// assert!(RecordedResult::from_stored(vec![99]).decode().is_err());
/// # Ok::<(), oneflight::record::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct RecordedResult(Arc<[u8]>);

impl RecordedResult {
    /// Encodes a value that a codec has written.
    pub fn value(verdict: Verdict, codec: CodecId<'_>, payload: &[u8]) -> Self {
        Self::assemble(kind_of(verdict), codec, payload)
    }

    /// Encodes the fact that the work was done and its result is not kept: it had `size` encoded bytes, where `limit`
    /// were allowed.
    pub fn too_large(size: u64, limit: u64) -> Self {
        let [size, limit] = [size, limit].map(u64::to_be_bytes);
        Self::assemble(TOO_LARGE, CodecId::None, &[size, limit].concat())
    }

    /// Encodes the fact that the work was done and its result could not be encoded, or not be decoded again.
    pub fn not_encodable() -> Self {
        Self::assemble(NOT_ENCODABLE, CodecId::None, &[])
    }

    /// Returns what is left of this result once its value is erased: that the work was done. Returns `None` if there is no
    /// value in it.
    ///
    /// Of an answer that the HTTP layer recorded, in its own form, the status and the date are left, and it is replayed as an
    /// outcome without a body. Any other result becomes one that was [too large](Self::too_large), with a limit of 0: what a
    /// codec has written is not looked into. Every version of this crate can read either.
    ///
    /// ```
    /// use oneflight::record::{CodecId, Decoded, RecordedResult, Verdict};
    ///
    /// let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"42");
    /// let erased = result.erased().ok_or("it has a value")?;
    /// assert_eq!(erased.decode()?, Decoded::TooLarge { size: 2, limit: 0 });
    /// assert_eq!(erased.erased(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn erased(&self) -> Option<Self> {
        let Ok(decoded) = self.decode() else {
            return Some(Self::too_large(self.0.len() as u64, 0));
        };
        let Decoded::Value {
            verdict,
            codec,
            payload,
        } = decoded
        else {
            return None;
        };
        if self.0.ends_with(ERASED) && self.0.len() <= LONGEST_ERASED {
            return None;
        }
        let outcome = match codec {
            CodecId::Named(HTTP) => outcome_of(payload),
            CodecId::NamedLz4(HTTP) => literals(payload).and_then(outcome_of),
            _ => None,
        };
        let codec = CodecId::Named(HTTP);
        Some(match outcome {
            Some(outcome) => Self::assemble(kind_of(verdict), codec, &[outcome, b"\0", ERASED].concat()),
            None => Self::too_large(payload.len() as u64, 0),
        })
    }

    fn assemble(kind: u8, codec: CodecId<'_>, payload: &[u8]) -> Self {
        let name = match codec {
            CodecId::Named(name) | CodecId::NamedLz4(name) => Some(name.as_bytes()),
            CodecId::None | CodecId::Json | CodecId::JsonLz4 => None,
        };
        // A name is no longer than a byte tells: it was checked where the name came from.
        let length = name.map(|name| [name.len() as u8]);
        let header: [u8; HEADER] = [VERSION, kind, codec.code()];
        let length = length.as_ref().map_or(&[][..], |length| length);
        let parts = [&header[..], length, name.unwrap_or_default(), payload];
        // In place: from a vector, they would be copied into another allocation.
        let size = parts.iter().map(|part| part.len()).sum();
        let mut bytes: Arc<[u8]> = repeat_n(0, size).collect();
        let mut rest = Arc::make_mut(&mut bytes);
        for part in parts {
            let (own, behind) = { rest }.split_at_mut(part.len());
            own.copy_from_slice(part);
            rest = behind;
        }
        Self(bytes)
    }

    /// Takes the bytes as a store read them. Only [`decode`](Self::decode) looks into them.
    pub fn from_stored(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes that a store keeps.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Decodes the header.
    ///
    /// # Errors
    ///
    /// The bytes are cut short, or were written by a version of this crate that knows more.
    pub fn decode(&self) -> Result<Decoded<'_>, DecodeError> {
        let (&version, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion { version });
        }
        let [kind, codec, payload @ ..] = rest else {
            return Err(DecodeError::Truncated);
        };
        let verdict = match *kind {
            PERFORMED => Verdict::Performed,
            DECLINED => Verdict::Declined,
            TOO_LARGE => {
                let (size, limit) = payload.split_first_chunk().ok_or(DecodeError::Truncated)?;
                let limit = limit.try_into().map_err(|_| DecodeError::Truncated)?;
                return Ok(Decoded::TooLarge {
                    size: u64::from_be_bytes(*size),
                    limit: u64::from_be_bytes(limit),
                });
            }
            NOT_ENCODABLE => return Ok(Decoded::NotEncodable),
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        let (codec, payload) = match *codec {
            0 => (CodecId::None, payload),
            1 => (CodecId::Json, payload),
            2 => (CodecId::JsonLz4, payload),
            3 => named(payload)?,
            4 => named(payload).map(|(codec, payload)| (codec.compressed(), payload))?,
            codec => return Err(DecodeError::UnknownCodec { codec }),
        };
        Ok(Decoded::Value {
            verdict,
            codec,
            payload,
        })
    }
}

fn kind_of(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Performed => PERFORMED,
        Verdict::Declined => DECLINED,
    }
}

/// Returns the version, the status and the date of an answer of the HTTP layer: a byte, and two numbers of seven bits a byte.
fn outcome_of(payload: &[u8]) -> Option<&[u8]> {
    let (&version, numbers) = payload.split_first()?;
    if version != 1 {
        return None;
    }
    let ends = numbers.iter().enumerate().filter(|(_, byte)| **byte < 0x80);
    let (end, _) = ends.take(2).nth(1)?;
    // A status has at most three of them, a date ten.
    payload.get(..end + 2).filter(|outcome| outcome.len() <= 1 + 3 + 10)
}

/// Returns what an LZ4 block, behind its length in 32 bits, begins with as it is.
fn literals(compressed: &[u8]) -> Option<&[u8]> {
    let (_, block) = compressed.split_first_chunk::<4>()?;
    let (token, rest) = block.split_first()?;
    match usize::from(token >> 4) {
        // The length goes on, in bytes of 255 and one that is less. So many are enough here.
        15 => {
            let end = rest.iter().position(|byte| *byte != u8::MAX)?;
            rest.get(end + 1..end + 1 + 15)
        }
        length => rest.get(..length),
    }
}

/// Returns the codec that is named there, and what follows its name.
fn named(bytes: &[u8]) -> Result<(CodecId<'_>, &[u8]), DecodeError> {
    let (&length, rest) = bytes.split_first().ok_or(DecodeError::Truncated)?;
    let (name, payload) = rest
        .split_at_checked(usize::from(length))
        .ok_or(DecodeError::Truncated)?;
    match str::from_utf8(name).map(CodecId::named) {
        Ok(Some(codec @ CodecId::Named(_))) => Ok((codec, payload)),
        _ => Err(DecodeError::CodecName),
    }
}

/// Prints the size, never the content.
impl fmt::Debug for RecordedResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordedResult({} bytes)", self.0.len())
    }
}

/// A recorded result that this version of the crate cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the header does.
    Truncated,
    /// The layout's version is not known.
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// The kind of result is not known.
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
    /// The payload's codec is not known.
    UnknownCodec {
        /// The codec found.
        codec: u8,
    },
    /// The name of the payload's codec is empty, not text, or that of JSON, which has a number.
    CodecName,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the recorded result is cut short; look at the record in the store"),
            Self::UnknownVersion { version } => write!(
                f,
                "the recorded result has layout version {version}, and only {VERSION} is known here; \
                 upgrade this process"
            ),
            Self::UnknownKind { kind } => write!(
                f,
                "the recorded result is of kind {kind}, which is not known here; upgrade this process"
            ),
            Self::UnknownCodec { codec } => write!(
                f,
                "the recorded result is written with codec {codec}, which is not known here; \
                 upgrade this process"
            ),
            Self::CodecName => {
                f.write_str("the recorded result does not name its codec; look at the record in the store")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for verdict in [Verdict::Performed, Verdict::Declined] {
            let result = RecordedResult::value(verdict, CodecId::Json, b"{}");
            let read = RecordedResult::from_stored(result.as_bytes().to_vec());
            let expected = Decoded::Value {
                verdict,
                codec: CodecId::Json,
                payload: b"{}",
            };
            assert_eq!(read.decode(), Ok(expected));
        }
        assert_eq!(
            RecordedResult::too_large(7, 5).decode(),
            Ok(Decoded::TooLarge { size: 7, limit: 5 })
        );
        assert_eq!(RecordedResult::not_encodable().decode(), Ok(Decoded::NotEncodable));
    }

    #[test]
    fn a_named_codec_stands_before_its_payload() {
        let codec = CodecId::named("acme").unwrap();
        let result = RecordedResult::value(Verdict::Declined, codec, b"xyz");
        assert_eq!(result.as_bytes(), b"\x01\x01\x03\x04acmexyz");
        let expected = Decoded::Value {
            verdict: Verdict::Declined,
            codec,
            payload: b"xyz",
        };
        assert_eq!(result.decode(), Ok(expected));
        for end in 3..8 {
            let cut = RecordedResult::from_stored(&result.as_bytes()[..end]);
            assert_eq!(cut.decode(), Err(DecodeError::Truncated), "cut at {end}");
        }
        for name in [&b"\x00"[..], b"\x01\xff", b"\x04json"] {
            let unnamed = RecordedResult::from_stored([b"\x01\x00\x03", name].concat());
            assert_eq!(unnamed.decode(), Err(DecodeError::CodecName), "{name:?}");
        }
    }

    #[test]
    fn a_name_has_at_most_255_bytes() {
        let longest = "n".repeat(255);
        let result = RecordedResult::value(Verdict::Performed, CodecId::named(&longest).unwrap(), b"");
        let Ok(Decoded::Value {
            codec, payload: b"", ..
        }) = result.decode()
        else {
            panic!("{result:?}");
        };
        assert_eq!(codec.name(), longest);
        assert_eq!(CodecId::named(&"n".repeat(256)), None);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_of_the_header_is_an_error_or_a_value() {
        let whole = RecordedResult::too_large(u64::MAX, 1);
        for end in 0..whole.as_bytes().len() {
            let cut = RecordedResult::from_stored(&whole.as_bytes()[..end]);
            assert_eq!(cut.decode(), Err(DecodeError::Truncated), "cut at {end}");
        }
        for position in 0..HEADER {
            for byte in 0..=u8::MAX {
                let mut bytes = whole.as_bytes().to_vec();
                bytes[position] = byte;
                let _ = RecordedResult::from_stored(bytes).decode();
            }
        }
    }

    #[test]
    fn of_an_answer_of_http_the_status_and_the_date_are_left() {
        let http = CodecId::named(HTTP).unwrap();
        // Status 201, a date, no header lines, a body of three bytes, no trailers.
        let outcome = b"\x01\xc9\x01\xe8\xd9\xc8\xb8\xed\x32";
        let payload = [&outcome[..], b"\x00\x01\x03abc\x00"].concat();
        let expected = [&outcome[..], b"\x00\x00erased"].concat();
        let block = [&(payload.len() as u32).to_le_bytes()[..], &[0xe0], &payload].concat();
        for verdict in [Verdict::Performed, Verdict::Declined] {
            for (codec, payload) in [(http, &payload), (http.compressed(), &block)] {
                let erased = RecordedResult::value(verdict, codec, payload).erased().unwrap();
                let left = Decoded::Value {
                    verdict,
                    codec: http,
                    payload: &expected,
                };
                assert_eq!(erased.decode(), Ok(left));
                assert_eq!(erased.erased(), None);
            }
        }
    }

    #[test]
    fn what_is_erased_has_nothing_of_the_value() {
        let http = CodecId::named(HTTP).unwrap();
        let nasty: [&[u8]; 6] = [
            b"",
            b"\x02secret",
            b"\x01",
            b"\x01\xff\xff\xff\xff\xff\xffsecret",
            b"\x01secret",
            b"\xff\0erased",
        ];
        for codec in [CodecId::Json, http, http.compressed(), CodecId::named("acme").unwrap()] {
            for payload in nasty {
                let erased = RecordedResult::value(Verdict::Performed, codec, payload).erased();
                let Some(erased) = erased else { continue };
                let bytes = erased.as_bytes();
                assert!(!bytes.windows(6).any(|it| it == b"secret"), "{codec:?} {payload:?}");
                assert_eq!(erased.erased(), None, "{codec:?} {payload:?}");
            }
        }
        let unknown = RecordedResult::from_stored(&b"\x63secret"[..]);
        assert_eq!(unknown.erased(), Some(RecordedResult::too_large(7, 0)));
        for left in [RecordedResult::too_large(7, 5), RecordedResult::not_encodable()] {
            assert_eq!(left.erased(), None);
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"secret");
        assert!(!format!("{result:?} {:?}", result.decode()).contains("secret"));
    }
}
