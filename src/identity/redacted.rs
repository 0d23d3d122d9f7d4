//! What a log may show of an idempotency key: enough to join lines, too little to send it.

use std::fmt;

/// A [`RequestIdentity`](super::RequestIdentity) as a log may show it: its scope, and of its key no more than the beginning
/// and a digest. Made by [`RequestIdentity::redacted`](super::RequestIdentity::redacted).
#[derive(Clone, Copy)]
pub struct Redacted<'a> {
    scope: &'a str,
    key: RedactedKey<'a>,
}

impl<'a> Redacted<'a> {
    pub(super) fn new(scope: &'a str, key: &'a str) -> Self {
        let key = RedactedKey(key);
        Self { scope, key }
    }
}

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.key, self.scope)
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key, without most of it.
#[derive(Clone, Copy)]
pub(super) struct RedactedKey<'a>(pub(super) &'a str);

impl fmt::Display for RedactedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never more than a quarter: of a short key that is nothing.
        let shown = (self.0.len() / 4).min(4);
        write!(f, "{}…", self.0.get(..shown).unwrap_or_default())?;
        #[cfg(feature = "durable")]
        {
            let digest = super::fingerprint::Fingerprint::of(self.0);
            digest.as_bytes()[..4]
                .iter()
                .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

/// As a key is shown by `Debug`.
impl fmt::Debug for RedactedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
