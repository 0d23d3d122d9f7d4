//! The key of a request: from where the `KeySource` looks, or by the user's function.

use bytes::Bytes;
use http::request::Parts;

use super::guard::guarded;
use super::settings::Settings;
use crate::http::key::KeyError;
use crate::http::problem::Problem;
use crate::identity::IdempotencyKey;

/// What a function for [keys](super::IdempotencyLayer::key) may return.
pub trait IntoKey {
    /// Returns the key if there is one, or the problem to answer with.
    ///
    /// # Errors
    ///
    /// There is something in the place of the key that is none.
    fn into_key(self) -> Result<Option<IdempotencyKey>, Problem>;
}

impl IntoKey for Option<IdempotencyKey> {
    fn into_key(self) -> Result<Option<IdempotencyKey>, Problem> {
        Ok(self)
    }
}

/// A text that is no [valid key](IdempotencyKey::new) is a [`KEY_MALFORMED`](crate::http::kind::KEY_MALFORMED).
impl IntoKey for Option<String> {
    fn into_key(self) -> Result<Option<IdempotencyKey>, Problem> {
        Ok(self.map(IdempotencyKey::new).transpose()?)
    }
}

impl IntoKey for Result<Option<IdempotencyKey>, Problem> {
    fn into_key(self) -> Result<Option<IdempotencyKey>, Problem> {
        self
    }
}

impl Settings {
    /// Returns the key that the head of a request carries.
    pub(super) fn key_in_head(&self, parts: &Parts) -> Result<Option<IdempotencyKey>, Problem> {
        match self.key {
            Some(_) => Ok(None),
            // The alphabet may be a function of the user's.
            None => Ok(guarded(|| self.keys.of_headers(&parts.headers))??),
        }
    }

    /// Whether there may be a key in the body, or another one than in the head.
    pub(super) fn is_key_in_body(&self, parts: &Parts) -> bool {
        self.key.is_some() || self.keys.is_in_body_of(&parts.headers)
    }

    /// Whether there may be a key in the body that cannot be seen: the request is not to pass for one without a key.
    pub(super) fn is_key_out_of_sight(&self, parts: &Parts) -> bool {
        self.key.is_none() && self.keys.is_out_of_sight(&parts.headers)
    }

    /// Returns the key of a request whose body was read.
    pub(super) fn find_key(&self, parts: &Parts, body: &Bytes) -> Result<Option<IdempotencyKey>, Problem> {
        match &self.key {
            Some(key) => guarded(|| key(parts, body))?,
            None => Ok(guarded(|| self.keys.search(&parts.headers, body, || body.clone()))??),
        }
    }

    /// Returns what a request is told that has no key and needs one.
    pub(super) fn key_missing(&self) -> Problem {
        match self.key {
            Some(_) => {
                let sought = "the place that the service documents".to_owned();
                KeyError::Missing { sought }.into()
            }
            None => self.keys.missing().into(),
        }
    }
}
