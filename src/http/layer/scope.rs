//! Where a key is valid: the principal, by the user's function, and the route.

use std::borrow::Cow;

use http::request::Parts;

use super::guard::guarded;
use super::settings::Settings;
use crate::http::problem::Problem;
use crate::identity::{Fingerprint, Scope};

/// What a function for [scopes](super::IdempotencyLayer::scope) may return.
pub trait IntoScope {
    /// Returns the scope, or the problem to answer with.
    ///
    /// # Errors
    ///
    /// The request has no principal, or is ambiguous about it.
    fn into_scope(self) -> Result<Scope, Problem>;
}

impl IntoScope for Scope {
    fn into_scope(self) -> Result<Scope, Problem> {
        Ok(self)
    }
}

/// `None` is a request without a principal.
impl IntoScope for Option<Scope> {
    fn into_scope(self) -> Result<Scope, Problem> {
        self.ok_or_else(Problem::principal_missing)
    }
}

impl IntoScope for Result<Scope, Problem> {
    fn into_scope(self) -> Result<Scope, Problem> {
        self
    }
}

/// The scope of requests whose clients are not told apart.
const EVERYBODY: &str = "everybody";

/// Longer paths go into a scope by their digest. In bytes.
const LONGEST_PATH: usize = 256;

/// Returns the scope of a request.
pub(super) fn of(settings: &Settings, parts: &Parts) -> Result<Scope, Problem> {
    let scope = match &settings.scope {
        Some(scope) => guarded(|| scope(parts))??,
        None => Scope::new(EVERYBODY),
    };
    if scope.has_route() {
        return Ok(scope);
    }
    let route = match &settings.route {
        Some(route) => Cow::Owned(guarded(|| route(parts))?),
        None => route(parts),
    };
    Ok(scope.route([parts.method.as_str(), " ", &route].concat()))
}

fn route(parts: &Parts) -> Cow<'_, str> {
    #[cfg(feature = "axum")]
    if let Some(matched) = parts.extensions.get::<axum::extract::MatchedPath>() {
        return without_names(matched.as_str());
    }
    match path(parts) {
        path if path.len() > LONGEST_PATH => Cow::Owned(format!("sha256:{}", Fingerprint::of(path))),
        path => Cow::Borrowed(path),
    }
}

/// Returns a route of axum's without the names of its parameters, which are the code's own affair: `/orders/{}` for
/// `/orders/{id}`.
#[cfg(feature = "axum")]
fn without_names(route: &str) -> Cow<'_, str> {
    if !route.contains('{') {
        return Cow::Borrowed(route);
    }
    let mut plain = String::with_capacity(route.len());
    let mut is_name = false;
    for character in route.chars() {
        is_name = is_name && character != '}';
        if !is_name || character == '*' {
            plain.push(character);
        }
        is_name = is_name || character == '{';
    }
    Cow::Owned(plain)
}

/// Returns the path as the client sent it: axum takes a prefix off for a service that is nested.
pub(super) fn path(parts: &Parts) -> &str {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return original.path();
    }
    parts.uri.path()
}
