//! The scope: where an idempotency key is valid.
//!
//! The canonical form is `namespace|route=...|user=...`, with `%`, `|` and `=` written as `%25`, `%7C` and `%3D`. The
//! parts stand in a fixed order under fixed names. So two different scopes never have the same form, and an operator
//! can still read it in a table.

use super::error::IdentityError;

/// Where a key is valid: in a namespace (most often the tenant), and optionally for a route and a user.
///
/// A key says nothing outside its scope: no tenant, user or route reads another's result. Put in whatever must not
/// share answers. [`RequestIdentity::new`](crate::identity::RequestIdentity::new) validates the parts.
///
/// ```
/// use oneflight::{RequestIdentity, Scope};
///
/// let scope = Scope::new("tenant-7").route("POST /orders").user("u1");
/// assert_eq!(RequestIdentity::new(scope, "a7f3")?.scope(), "tenant-7|route=POST /orders|user=u1");
///
/// // Delimiters inside a part are escaped: this is another scope.
/// let forged = Scope::new("tenant-7|route=POST /orders").user("u1");
/// assert_eq!(RequestIdentity::new(forged, "a7f3")?.scope(), "tenant-7%7Croute%3DPOST /orders|user=u1");
/// # Ok::<(), oneflight::identity::IdentityError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a scope does nothing until it is joined with a key in a RequestIdentity"]
pub struct Scope {
    namespace: String,
    route: Option<String>,
    user: Option<String>,
}

impl Scope {
    /// The maximum length of a scope in its canonical form, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Makes a scope of a namespace alone.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            route: None,
            user: None,
        }
    }

    /// Narrows the scope to one operation, such as `POST /orders`.
    pub fn route(mut self, route: impl Into<String>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// Narrows the scope to one user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    #[cfg(feature = "http")]
    pub(crate) fn has_route(&self) -> bool {
        self.route.is_some()
    }

    /// Returns the one text for this scope, if the scope is valid, with room for so many bytes behind it.
    pub(super) fn canonical(&self, room: usize) -> Result<String, IdentityError> {
        let parts = [Some(&self.namespace), self.route.as_ref(), self.user.as_ref()];
        let bytes = parts.into_iter().flatten().map(|part| part.len() + "|route=".len());
        let mut text = String::with_capacity(bytes.sum::<usize>().min(Self::MAX_BYTES) + room);
        push(&mut text, "namespace", &self.namespace)?;
        if let Some(route) = &self.route {
            text.push_str("|route=");
            push(&mut text, "route", route)?;
        }
        if let Some(user) = &self.user {
            text.push_str("|user=");
            push(&mut text, "user", user)?;
        }
        if text.len() > Self::MAX_BYTES {
            return Err(IdentityError::ScopeTooLong {
                bytes: text.len(),
                limit: Self::MAX_BYTES,
            });
        }
        Ok(text)
    }
}

/// Appends a part, escaped.
fn push(text: &mut String, part: &'static str, value: &str) -> Result<(), IdentityError> {
    if value.is_empty() {
        return Err(IdentityError::ScopePartEmpty { part });
    }
    // A part that is far too long is not escaped first: its length is enough of an answer.
    if value.len() > Scope::MAX_BYTES {
        return Err(IdentityError::ScopeTooLong {
            bytes: value.len(),
            limit: Scope::MAX_BYTES,
        });
    }
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'%' | b'|' | b'=');
    if value.bytes().all(is_plain) {
        text.push_str(value);
        return Ok(());
    }
    for (position, character) in value.char_indices() {
        match character {
            '%' => text.push_str("%25"),
            '|' => text.push_str("%7C"),
            '=' => text.push_str("%3D"),
            character if character.is_control() => {
                return Err(IdentityError::ScopeCharacter { part, position });
            }
            character => text.push(character),
        }
    }
    Ok(())
}
