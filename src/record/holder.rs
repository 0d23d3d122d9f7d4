//! A random number for each holder, so that a holder that asks again is known.

use std::fmt;

use crate::random::random_bytes;

/// What the number of a holder begins with that [settles](HolderId::settles). Another one does by a chance of one in 2^64.
const SETTLES: [u8; 8] = *b"settled\0";

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

    /// Draws one for a claim that settles a doubt.
    #[must_use]
    pub(crate) fn settling() -> Self {
        let mut bytes: [u8; 16] = random_bytes();
        bytes[..SETTLES.len()].copy_from_slice(&SETTLES);
        Self(bytes)
    }

    /// Returns whether this is the holder of a claim that has [settled](crate::Idempotency::resolve) a doubt: what is recorded
    /// under it was told by an operator, and not by the work.
    ///
    /// Processes of a version that does not mark these claims draw other numbers.
    #[must_use]
    pub fn settles(&self) -> bool {
        self.0.starts_with(&SETTLES)
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
