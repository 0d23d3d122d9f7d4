//! The id that joins everything that one request caused: browser, service, database and downstream logs.
//!
//! It is for people who read logs, never for deciding anything. Unlike an idempotency key it may come from anyone and
//! be anything, so it is bounded, and limited to characters that can stand in a header, a log line and a database
//! column.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The name of the `X-Request-Id` header.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of the `X-Correlation-Id` header.
pub const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// A correlation id: 1 to 128 bytes of visible ASCII. Cloning is cheap.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use oneflight::http::{CorrelationId, X_REQUEST_ID};
///
/// // The one that a proxy or the browser has already given the request …
/// let mut headers = HeaderMap::new();
/// headers.insert(X_REQUEST_ID, HeaderValue::from_static("edge-5f2c"));
/// assert_eq!(CorrelationId::from_headers(&headers).as_str(), "edge-5f2c");
///
/// // … or a new one.
/// let fresh = CorrelationId::from_headers(&HeaderMap::new());
/// assert_eq!(fresh.as_str().len(), 36);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CorrelationId(Arc<str>);

impl CorrelationId {
    /// The maximum length of an id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Makes a new id: a random UUID (version 4).
    #[must_use]
    pub fn random() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text: &str = uuid::Uuid::new_v4().as_hyphenated().encode_lower(&mut buffer);
        Self(text.into())
    }

    /// Validates an id that came from elsewhere.
    ///
    /// # Errors
    ///
    /// [`CorrelationIdError`] if the text is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES) or holds anything but
    /// visible ASCII (`0x21` to `0x7e`).
    pub fn new(text: impl AsRef<str>) -> Result<Self, CorrelationIdError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(CorrelationIdError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(CorrelationIdError::TooLong {
                bytes: text.len(),
                limit: Self::MAX_BYTES,
            });
        }
        match text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            Some(position) => Err(CorrelationIdError::Character { position }),
            None => Ok(Self(text.into())),
        }
    }

    /// Returns the id that the request carries in `X-Request-Id`, or else in `X-Correlation-Id`, or a new one.
    ///
    /// A header that is repeated, or that [`new`](Self::new) rejects, counts as missing: a bad correlation id is no
    /// reason to turn a request away.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        [X_REQUEST_ID, X_CORRELATION_ID]
            .into_iter()
            .find_map(|name| {
                let mut values = headers.get_all(name).iter();
                let value = values.next()?;
                if values.next().is_some() {
                    return None;
                }
                Self::new(value.to_str().ok()?).ok()
            })
            .unwrap_or_else(Self::random)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id as the value of a header, to answer with or to hand on.
    #[must_use]
    pub fn to_header_value(&self) -> HeaderValue {
        // Visible ASCII is always a valid value, so that the fallback is never taken.
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("unprintable"))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for CorrelationId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for CorrelationId {
    type Err = CorrelationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// Why a text is not a [`CorrelationId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorrelationIdError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`CorrelationId::MAX_BYTES`].
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The text contains something other than visible ASCII.
    Character {
        /// The position of the first such byte, counted from 0.
        position: usize,
    },
}

impl fmt::Display for CorrelationIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "the correlation id is empty; send one of 1 to {} characters",
                CorrelationId::MAX_BYTES
            ),
            Self::TooLong { bytes, limit } => {
                write!(
                    f,
                    "the correlation id is {bytes} bytes long; send one of up to {limit} bytes"
                )
            }
            Self::Character { position } => write!(
                f,
                "the correlation id has an unacceptable character at byte {position}; send visible ASCII"
            ),
        }
    }
}

impl Error for CorrelationIdError {}
