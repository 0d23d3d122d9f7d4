//! What operators see of a request with a key: its span, and what it is counted as.
//!
//! This file knows which fact belongs to which metric and field. The names are `telemetry`'s.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

use super::settings::Settings;
use crate::correlation;
use crate::http::kind::{self, described};
use crate::http::problem::Problem;
use crate::idempotency::{Error, ErrorKind, Origin};
use crate::identity::RequestIdentity;
use crate::telemetry::counts::Route;
use crate::telemetry::{InSpan, KeyedSpan};

/// What a route is called in spans and metrics, where axum has matched none: an extension of the request.
///
/// Let the names be few: a path that a client can choose has no bound.
///
/// ```
/// use http::Request;
/// use oneflight::http::layer::RouteName;
///
/// let mut request = Request::post("/orders/17").body(())?;
/// request.extensions_mut().insert(RouteName::new("/orders/{id}"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// Makes a name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Tells the recorder of the feature `metrics` that there is such a route, with 0 for all that is counted of it. Without that
    /// feature it does nothing.
    ///
    /// The first request with a key does the same. Prometheus takes a counter that appears as one that has not increased, so call
    /// this when the service starts, once its recorder is there, for an alert on the first doubt of a route:
    ///
    /// ```
    /// use oneflight::http::layer::RouteName;
    ///
    /// // As axum matches it.
    /// RouteName::new("/orders/{id}").announce();
    /// ```
    pub fn announce(&self) {
        Route::new(Arc::clone(&self.0)).announce();
    }
}

/// One request, as far as it is seen.
pub(super) struct Seen {
    pub(super) route: Route,
    span: KeyedSpan,
}

impl Settings {
    /// Begins to see a request.
    pub(super) fn seen(&self, parts: &Parts) -> Seen {
        Seen {
            route: self.routes.see(matched(parts)),
            span: KeyedSpan::none(),
        }
    }
}

impl Seen {
    /// Opens the span: it is known whose request it is.
    pub(super) fn open(&mut self, parts: &Parts, id: &RequestIdentity) {
        self.span = KeyedSpan::new(id, matched(parts), correlation::current);
    }

    /// Executes inside of the span.
    pub(super) fn around<F>(&self, executed: F) -> InSpan<F> {
        self.span.around(executed)
    }

    /// The client gets an answer of the handler's.
    pub(super) fn answered(&self, origin: Origin, status: StatusCode) {
        self.route.answered(origin.as_str());
        self.span.ends(origin.as_str(), status.as_u16());
    }

    /// The call has no reply.
    pub(super) fn failed(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Store(_) | ErrorKind::Unrecorded(_)) {
            self.route.store_failed();
        }
    }

    /// The client gets a problem of ours.
    pub(super) fn told(&self, problem: &Problem) {
        match problem.type_uri() {
            kind::KEY_REUSED => self.route.conflicted(),
            kind::IN_DOUBT => self.route.in_doubt(),
            uri => {
                let known = described::ALL.iter().find(|known| known.uri == uri);
                self.route.refused(known.map_or("other", |known| known.name));
            }
        }
        self.span.ends("none", problem.status().as_u16());
    }
}

/// The route that is told: axum's, or the one that a service of another kind has named.
fn matched(parts: &Parts) -> Option<&str> {
    #[cfg(feature = "axum")]
    if let Some(matched) = parts.extensions.get::<axum::extract::MatchedPath>() {
        return Some(matched.as_str());
    }
    parts.extensions.get::<RouteName>().map(|name| &*name.0)
}
