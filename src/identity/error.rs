//! Why a scope, a key or a fingerprint is not valid.

use std::convert::Infallible;
use std::fmt;

/// Why a scope, an idempotency key or a fingerprint is not valid.
///
/// The message says the limit and what was given, never the content: a stranger sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// The key has no characters.
    KeyEmpty,
    /// The key is longer than [`IdempotencyKey::MAX_BYTES`](crate::identity::IdempotencyKey::MAX_BYTES).
    KeyTooLong {
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The key contains something other than printable ASCII, or begins or ends with a space.
    KeyCharacter {
        /// The position of the first such byte, counted from 0.
        position: usize,
    },
    /// A part of the scope is empty: most often a tenant or user that was never filled in.
    ScopePartEmpty {
        /// The name of the part.
        part: &'static str,
    },
    /// A part of the scope contains a control character.
    ScopeCharacter {
        /// The name of the part.
        part: &'static str,
        /// The position of the first one, in bytes from 0.
        position: usize,
    },
    /// The scope is longer than [`Scope::MAX_BYTES`](crate::identity::Scope::MAX_BYTES) in its canonical form.
    ScopeTooLong {
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The text is not the 64 hexadecimal digits of a fingerprint.
    FingerprintMalformed,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyEmpty => f.write_str("the idempotency key is empty; send one of 1 to 255 characters"),
            Self::KeyTooLong { bytes, limit } => write!(
                f,
                "the idempotency key is {bytes} bytes long; send one of up to {limit} bytes"
            ),
            Self::KeyCharacter { position } => write!(
                f,
                "the idempotency key has an unacceptable character at byte {position}; \
                 send printable ASCII, with no space at either end"
            ),
            Self::ScopePartEmpty { part: "namespace" } => {
                f.write_str("the scope's namespace is empty; name it: most often it is the tenant")
            }
            Self::ScopePartEmpty { part } => write!(f, "the scope's {part} is empty; leave the part out or name it"),
            Self::ScopeCharacter { part, position } => write!(
                f,
                "the scope's {part} has a control character at byte {position}; leave it out"
            ),
            Self::ScopeTooLong { bytes, limit } => write!(
                f,
                "the scope is {bytes} bytes long in its canonical form; shorten it to {limit}"
            ),
            Self::FingerprintMalformed => f.write_str("the fingerprint is malformed; give its 64 hexadecimal digits"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// Lets an [`IdempotencyKey`](crate::identity::IdempotencyKey) itself be given where a text can.
impl From<Infallible> for IdentityError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
