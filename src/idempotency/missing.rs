//! What it means if only one of two requests has a fingerprint.

use crate::identity::Fingerprint;

/// Says what it means that only one of two calls with the same identity, or of a call and its record, has a
/// fingerprint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingFingerprint {
    /// They may be two requests: [`ErrorKind::Conflict`](super::ErrorKind::Conflict). The default.
    #[default]
    Conflict,
    /// They are taken for the same request.
    Accept,
}

impl MissingFingerprint {
    /// Returns whether two requests of one identity are told apart by their fingerprints.
    pub(super) fn tells_apart(self, one: Option<Fingerprint>, other: Option<Fingerprint>) -> bool {
        match (self, one, other) {
            (Self::Accept, None, _) | (Self::Accept, _, None) => false,
            _ => one != other,
        }
    }
}
