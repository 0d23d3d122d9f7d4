//! A random number for each holder, so that a holder that asks again is known.

use std::fmt;

use crate::random::random_bytes;

/// A random number that tells one holder from another: a holder that asks again gets the same claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HolderId([u8; 16]);

impl HolderId {
    /// Draws a new one from the operating system's random numbers. A process and its copy (after a fork, or from a
    /// snapshot of a machine) draw different ones.
    #[must_use]
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// Takes the bytes as a store read them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes that a store keeps.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HolderId({:032x})", u128::from_be_bytes(self.0))
    }
}
