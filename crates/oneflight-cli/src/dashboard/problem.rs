//! What the page is told when something is not done: a word that it knows, and a sentence for people.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use oneflight::store::StoreError;
use serde::Serialize;

use crate::store::told;

#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    kind: &'a str,
    message: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, message }
    }

    /// What was asked for makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    /// It is another state than the one that was looked at.
    pub(super) fn changed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "changed", message)
    }

    /// It may not be done.
    pub(super) fn forbidden(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, kind, message)
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unsupported { advice } => Self::new(StatusCode::NOT_IMPLEMENTED, "unsupported", advice),
            StoreError::Outdated { .. } => Self::changed("it has changed meanwhile, and was left as it is; look again"),
            error => {
                tracing::warn!(error = told(&error), "the store failed");
                // The words of a driver may have an address in them, which is for the log.
                let message = "the store could not be reached, or failed; the dashboard's log says how";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", message)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            kind: self.kind,
            message: &self.message,
        };
        (self.status, Json(body)).into_response()
    }
}
