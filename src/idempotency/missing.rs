//! When fingerprints tell requests apart of which one has none.

use crate::identity::Fingerprint;

/// What it means that of two calls with one identity, or of a call and its record, only one has a fingerprint.
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
    /// Whether two requests of one identity are told apart by their fingerprints.
    pub(super) fn tells_apart(self, one: Option<Fingerprint>, other: Option<Fingerprint>) -> bool {
        match (self, one, other) {
            (Self::Accept, None, _) | (Self::Accept, _, None) => false,
            _ => one != other,
        }
    }
}
