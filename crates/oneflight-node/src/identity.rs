//! Which request a call is about, as JavaScript says it.

use napi_derive::napi;
use oneflight::identity::IdentityError;
use oneflight::store::unhex;
use oneflight::{Fingerprint, RequestIdentity, Scope};

/// Scope, key and fingerprint of a request, and its correlation id, which is no part of the identity.
#[napi(object)]
pub struct Identity {
    pub namespace: String,
    pub route: Option<String>,
    pub user: Option<String>,
    pub key: String,
    /// In hexadecimal digits. Bytes would be those of JavaScript, which go with their thread.
    pub fingerprint: Option<String>,
    pub correlation_id: Option<String>,
}

impl Identity {
    /// Validates all parts.
    pub(crate) fn validated(self) -> Result<RequestIdentity, IdentityError> {
        let mut scope = Scope::new(self.namespace);
        if let Some(route) = self.route {
            scope = scope.route(route);
        }
        if let Some(user) = self.user {
            scope = scope.user(user);
        }
        let id = RequestIdentity::new(scope, self.key.as_str())?;
        match self.fingerprint {
            None => Ok(id),
            Some(digest) => {
                let digest = unhex(&digest).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let digest = digest.ok_or(IdentityError::FingerprintMalformed)?;
                Ok(id.with_known_fingerprint(Fingerprint::from_digest(digest)))
            }
        }
    }
}
