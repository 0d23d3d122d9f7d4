//! What operators see of a request with a key: its span, and what it is counted as.
//!
//! This file knows which fact belongs to which metric and field. The names are `telemetry`'s.

use http::StatusCode;
use http::request::Parts;

use crate::correlation;
use crate::http::kind::{self, described};
use crate::http::problem::Problem;
use crate::idempotency::{Error, ErrorKind, Origin};
use crate::identity::RequestIdentity;
use crate::telemetry::counts::Route;
use crate::telemetry::{InSpan, KeyedSpan};

/// One request, as far as it is seen.
pub(super) struct Seen {
    pub(super) route: Route,
    span: KeyedSpan,
}

impl Seen {
    pub(super) fn of(parts: &Parts) -> Self {
        Self {
            route: Route::new(matched(parts)),
            span: KeyedSpan::none(),
        }
    }

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

#[cfg(feature = "axum")]
fn matched(parts: &Parts) -> Option<&str> {
    let matched = parts.extensions.get::<axum::extract::MatchedPath>()?;
    Some(matched.as_str())
}

#[cfg(not(feature = "axum"))]
fn matched(_: &Parts) -> Option<&str> {
    None
}
