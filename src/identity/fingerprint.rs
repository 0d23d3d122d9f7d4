//! The fingerprint: a digest that tells two payloads apart without keeping either.

use std::fmt;
use std::str::FromStr;

use super::error::IdentityError;

/// A 32-byte digest of a request's payload.
///
/// It must come from a cryptographic hash: a client that can find two payloads with one digest gets the answer of the
/// one for the other. `Debug` prints its first 8 bytes, `Display` prints all of them.
///
/// ```
/// # #[cfg(feature = "durable")] {
/// use oneflight::Fingerprint;
///
/// let one = Fingerprint::of(br#"{"item":1}"#);
/// assert_eq!(one, Fingerprint::of(br#"{"item":1}"#));
/// assert_ne!(one, Fingerprint::of(br#"{"item":2}"#));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Makes a fingerprint of a digest that was computed elsewhere.
    #[must_use]
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Returns the SHA-256 of a payload.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn of(payload: impl AsRef<[u8]>) -> Self {
        use sha2::{Digest, Sha256};
        Self(Sha256::digest(payload.as_ref()).into())
    }

    /// Returns a builder for the SHA-256 of several named parts, such as method, path and body.
    ///
    /// Names and values are length-prefixed: no two lists of parts run into the same digest.
    ///
    /// ```
    /// use oneflight::Fingerprint;
    ///
    /// let split = |at: usize| {
    ///     let (path, body) = "/orders12".split_at(at);
    ///     Fingerprint::builder().part("path", path).part("body", body).build()
    /// };
    /// assert_ne!(split(7), split(8));
    /// ```
    #[cfg(feature = "durable")]
    pub fn builder() -> FingerprintBuilder {
        FingerprintBuilder::default()
    }

    /// Returns the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        hex(f, &self.0[..8])?;
        f.write_str("..)")
    }
}

impl FromStr for Fingerprint {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return Err(IdentityError::FingerprintMalformed);
        }
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn nibble(digit: u8) -> Result<u8, IdentityError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(IdentityError::FingerprintMalformed),
    }
}

/// Digests several named parts into one [`Fingerprint`]. Made by [`Fingerprint::builder`].
#[cfg(feature = "durable")]
#[derive(Clone, Default)]
#[must_use = "the parts are digested by `build`"]
pub struct FingerprintBuilder(sha2::Sha256);

#[cfg(feature = "durable")]
impl FingerprintBuilder {
    /// Adds a part. The order matters.
    pub fn part(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        use sha2::Digest;
        for bytes in [name.as_ref(), value.as_ref()] {
            // `usize` has 64 bits at most on every platform that exists.
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Returns the fingerprint of the parts so far.
    #[must_use]
    pub fn build(self) -> Fingerprint {
        use sha2::Digest;
        Fingerprint(self.0.finalize().into())
    }
}

#[cfg(feature = "durable")]
impl fmt::Debug for FingerprintBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FingerprintBuilder").finish_non_exhaustive()
    }
}
