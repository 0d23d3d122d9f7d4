//! A scope and a key, joined.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::error::IdentityError;
use super::fingerprint::Fingerprint;
use super::key::IdempotencyKey;
use super::redacted::{Redacted, RedactedKey};
use super::scope::Scope;

/// Separates scope and key in the one text that is hashed. Neither may contain it, since both reject control
/// characters.
const SEPARATOR: char = '\u{1f}';

/// A request identity: a [`Scope`] and an [`IdempotencyKey`], with the payload's [`Fingerprint`] if known.
///
/// Equality and hash look at scope and key only. Cloning is cheap: it counts a reference.
///
/// ```
/// use oneflight::{Fingerprint, RequestIdentity, Scope};
///
/// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
/// let with = id.clone().with_known_fingerprint(Fingerprint::from_digest([7; 32]));
/// assert_eq!(id, with);
/// assert_ne!(id.fingerprint(), with.fingerprint());
/// # Ok::<(), oneflight::identity::IdentityError>(())
/// ```
#[derive(Clone)]
pub struct RequestIdentity {
    /// `scope SEPARATOR key`: one allocation, one comparison.
    text: Arc<str>,
    /// Where the separator stands. A validated scope is far shorter than a `u16` can say.
    split: u16,
    fingerprint: Option<Fingerprint>,
}

impl RequestIdentity {
    /// Joins a scope and a key into an identity.
    ///
    /// The key may be an [`IdempotencyKey`] or anything that can be validated as one.
    ///
    /// # Errors
    ///
    /// The scope or the key is not valid. The error has the limit and what was given, never the content.
    pub fn new<K>(scope: Scope, key: K) -> Result<Self, IdentityError>
    where
        K: TryInto<IdempotencyKey, Error: Into<IdentityError>>,
    {
        let key = key.try_into().map_err(Into::into)?;
        Self::join(scope.canonical(SEPARATOR.len_utf8() + key.as_str().len())?, &key)
    }

    /// Makes the identity that a store reads back, from the scope in its [canonical form](Self::scope) and the key.
    ///
    /// ```
    /// use oneflight::{RequestIdentity, Scope};
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7").user("u1"), "a7f3")?;
    /// assert_eq!(RequestIdentity::from_stored(id.scope(), id.key())?, id);
    /// # Ok::<(), oneflight::identity::IdentityError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The length or the characters of the scope are not valid, or the key is not. The error never has the content. How
    /// the scope is composed is not checked: that was done when the identity was made.
    pub fn from_stored(scope: &str, key: &str) -> Result<Self, IdentityError> {
        if scope.is_empty() {
            return Err(IdentityError::ScopePartEmpty { part: "namespace" });
        }
        if let Some(position) = scope.find(char::is_control) {
            let part = "namespace";
            return Err(IdentityError::ScopeCharacter { part, position });
        }
        Self::join(scope.to_owned(), &IdempotencyKey::new(key)?)
    }

    fn join(mut text: String, key: &IdempotencyKey) -> Result<Self, IdentityError> {
        let bytes = text.len();
        let split = u16::try_from(bytes).ok().filter(|_| bytes <= Scope::MAX_BYTES);
        let Some(split) = split else {
            let limit = Scope::MAX_BYTES;
            return Err(IdentityError::ScopeTooLong { bytes, limit });
        };
        text.reserve_exact(1 + key.as_str().len());
        text.push(SEPARATOR);
        text.push_str(key.as_str());
        Ok(Self {
            text: text.into(),
            split,
            fingerprint: None,
        })
    }

    /// Adds the digest of the request's payload, so that another payload under this identity is a conflict.
    ///
    /// For a request of several parts, see [`Fingerprint::builder`] and
    /// [`with_known_fingerprint`](Self::with_known_fingerprint).
    ///
    /// ```
    /// use oneflight::{RequestIdentity, Scope};
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?.with_fingerprint(br#"{"item":1}"#);
    /// assert!(id.fingerprint().is_some());
    /// # Ok::<(), oneflight::identity::IdentityError>(())
    /// ```
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_fingerprint(self, payload: impl AsRef<[u8]>) -> Self {
        self.with_known_fingerprint(Fingerprint::of(payload))
    }

    /// Adds a fingerprint that was computed elsewhere.
    #[must_use]
    pub fn with_known_fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Returns the scope in its canonical, unambiguous form.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.text[..usize::from(self.split)]
    }

    /// Returns the idempotency key as the client sent it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.text[usize::from(self.split) + SEPARATOR.len_utf8()..]
    }

    /// Returns the identity as a log may show it: the scope, and of the key at most four characters and a digest.
    ///
    /// No more than a quarter of the key is shown, so of a short one less than four characters. The digest is the first
    /// eight hexadecimal digits of the key's SHA-256, under the feature `durable`: lines of one request can be joined, and
    /// found by a key that a client tells. It is not computed before the value is displayed.
    ///
    /// ```
    /// use oneflight::{RequestIdentity, Scope};
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "8e03978e-40d5-43e8-bc93-6894a57f9324")?;
    /// # #[cfg(feature = "durable")]
    /// // printf %s 8e03978e-40d5-43e8-bc93-6894a57f9324 | sha256sum | head -c 8
    /// assert_eq!(id.redacted().to_string(), "8e03…238c5b6d [tenant-7]");
    /// # Ok::<(), oneflight::identity::IdentityError>(())
    /// ```
    #[must_use]
    pub fn redacted(&self) -> Redacted<'_> {
        Redacted::new(self.scope(), self.key())
    }

    /// Returns the digest of the payload, if one was given.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Returns the same request with this fingerprint, or with none.
    #[cfg(feature = "durable")]
    pub(crate) fn known_as(&self, fingerprint: Option<Fingerprint>) -> Self {
        Self {
            fingerprint,
            ..self.clone()
        }
    }

    /// Returns scope and key in one unambiguous text, which is digested into downstream keys.
    #[cfg(feature = "durable")]
    pub(crate) fn canonical(&self) -> &str {
        &self.text
    }
}

impl PartialEq for RequestIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RequestIdentity {}

impl Hash for RequestIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Shows the whole key: it is for a tool that an operator asks about one request. A log shows it
/// [redacted](RequestIdentity::redacted).
impl fmt::Display for RequestIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.key(), self.scope())
    }
}

/// Shows the key [redacted](RequestIdentity::redacted).
impl fmt::Debug for RequestIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestIdentity")
            .field("scope", &self.scope())
            .field("key", &RedactedKey(self.key()))
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}
