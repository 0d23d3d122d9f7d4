//! A random number for each holder, so that a holder that asks again is known.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use crate::backoff::random_u64;

/// A random number that tells one holder from another: a holder that asks again gets the same claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HolderId([u8; 16]);

impl HolderId {
    /// Draws a new one from the operating system's random numbers. A process and its copy (after a fork, or from a
    /// snapshot of a machine) draw different ones.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // No system that we know lacks them. The process and the time tell copies apart as well.
            let here_and_now = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
            bytes[..8].copy_from_slice(&here_and_now.to_be_bytes());
            bytes[8..].copy_from_slice(&random_u64().to_be_bytes());
        }
        Self(bytes)
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
