//! The idempotency key: what the client sends to say "this is the same request".

use std::fmt;
use std::str::FromStr;

use super::error::IdentityError;
use super::redacted::RedactedKey;

/// A validated idempotency key: 1 to 255 bytes of printable ASCII, with no space at either end.
///
/// This is what an HTTP structured-field string can carry, except for outer spaces: a client that sends the value
/// without quotes would lose those.
///
/// ```
/// use oneflight::identity::IdempotencyKey;
///
/// let key: IdempotencyKey = "8e03978e-40d5-43e8-bc93-6894a57f9324".parse()?;
/// assert_eq!(key.as_str(), "8e03978e-40d5-43e8-bc93-6894a57f9324");
/// assert!(IdempotencyKey::new("").is_err());
/// assert!(IdempotencyKey::new("two\nlines").is_err());
/// # Ok::<(), oneflight::identity::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The maximum length of a key, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Validates a key.
    ///
    /// # Errors
    ///
    /// The text is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), begins or ends with a space, or holds anything
    /// but printable ASCII.
    pub fn new(key: impl Into<String>) -> Result<Self, IdentityError> {
        let key = key.into();
        if key.is_empty() {
            return Err(IdentityError::KeyEmpty);
        }
        if key.len() > Self::MAX_BYTES {
            return Err(IdentityError::KeyTooLong {
                bytes: key.len(),
                limit: Self::MAX_BYTES,
            });
        }
        let last = key.len() - 1;
        let unacceptable = key.bytes().enumerate().position(|(at, byte)| match byte {
            b' ' => at == 0 || at == last,
            byte => !byte.is_ascii_graphic(),
        });
        match unacceptable {
            Some(position) => Err(IdentityError::KeyCharacter { position }),
            None => Ok(Self(key)),
        }
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for IdempotencyKey {
    type Error = IdentityError;

    fn try_from(key: &str) -> Result<Self, Self::Error> {
        Self::new(key)
    }
}

impl TryFrom<&String> for IdempotencyKey {
    type Error = IdentityError;

    fn try_from(key: &String) -> Result<Self, Self::Error> {
        Self::new(key.as_str())
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = IdentityError;

    fn try_from(key: String) -> Result<Self, Self::Error> {
        Self::new(key)
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdentityError;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        Self::new(key)
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0
    }
}

impl AsRef<str> for IdempotencyKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shows it redacted, as a log may: see [`RequestIdentity::redacted`](super::RequestIdentity::redacted).
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdempotencyKey").field(&RedactedKey(&self.0)).finish()
    }
}
