//! What the fingerprint of a request is taken of: what it means, not its bytes.
//!
//! The rule on which all else rests: two requests that differ in what is taken never have one fingerprint. Where two readers
//! of a body could read it in two ways, its bytes are taken. Nothing here fails, and nothing here knows what
//! an application does with a request.

use std::borrow::Cow;
use std::collections::HashSet;
use std::mem;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE};

use super::body::{BodyFormat, MediaType, encodings, form, is_encoded, json, multipart};
use super::key::KeySource;
use crate::identity::{Fingerprint, FingerprintBuilder};

/// What the fingerprint of a request is taken of.
///
/// These are always part of it:
///
/// | part | in which form |
/// | --- | --- |
/// | method, path and query | as sent |
/// | `If-Match`, `If-Unmodified-Since`, and the [chosen headers](Self::header) | their values in order; none is not the same as an empty one |
/// | media type | without upper and lower case; its parameters, but for `boundary` and a `charset` of UTF-8 |
/// | `Content-Encoding` | its codings in order, but for `identity` |
/// | a URL-encoded form | its pairs in order, decoded |
/// | a multipart form | its parts in order: the header fields of each (they hold name, file name and type), and its bytes. Never the boundary, which is a new one at each click |
/// | a JSON object | its bytes; its members in order, each as sent, if one may be left out; or its members [sorted](Self::sorted_json) |
/// | any other body | its bytes |
///
/// Fields that are [left out](Self::leave_out) are not, and neither is the field in which the key is
/// [looked for](KeySource::field).
///
/// A body is taken by its bytes as well if it is not what its media type says, if its `Content-Encoding` is anything but
/// `identity`, or if it can be read in more than one way: JSON that has a member twice, a multipart body with text
/// around its parts.
///
/// ```
/// use bytes::Bytes;
/// use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
/// use oneflight::http::{Fingerprints, KEY_FIELD, KeySource};
///
/// # futures::executor::block_on(async {
/// let key = KeySource::new().field(KEY_FIELD);
/// let fingerprints = Fingerprints::new()
///     .header(HeaderName::from_static("api-version"))
///     .leave_out("csrf_token")
///     .sorted_json();
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// let of = async |body: &'static str| {
///     let body = Bytes::from(body);
///     fingerprints.of(&Method::POST, "/orders", None, &headers, &body, &key).await
/// };
///
/// let first = of(r#"{"item": "tea", "amount": 1, "csrf_token": "x"}"#).await;
/// assert_eq!(first, of(r#"{"amount":1,"item":"tea","idempotency_key":"order-17"}"#).await);
/// assert_ne!(first, of(r#"{"amount":2,"item":"tea","idempotency_key":"order-17"}"#).await);
/// # });
/// ```
///
/// Other settings give other fingerprints. So a deploy that changes them meets records that do not match: a duplicate
/// across such a deploy is a conflict.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Fingerprints {
    headers: Vec<HeaderName>,
    left_out: Vec<Cow<'static, str>>,
    members: Members,
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
        // What a request is conditional on is part of what it means (RFC 9110, section 13.1).
        Self::default().header(IF_MATCH).header(IF_UNMODIFIED_SINCE)
    }

    /// Takes the values of a header as well, such as the version of an API.
    ///
    /// That it is missing is part of the fingerprint too. The order in which headers are added is not.
    pub fn header(mut self, name: HeaderName) -> Self {
        if let Err(at) = self.headers.binary_search_by(|known| known.as_str().cmp(name.as_str())) {
            self.headers.insert(at, name);
        }
        self
    }

    /// Leaves out a field that may differ from retry to retry, such as a CSRF token or a timestamp.
    ///
    /// This is a field of a form, a part of a multipart form, or a member of the outermost JSON object. The members that
    /// are left are taken each as it was sent: white space between them says nothing any more.
    pub fn leave_out(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.left_out.push(field.into());
        self
    }

    /// Takes the members of JSON objects sorted by name, at every depth.
    ///
    /// White space between values, and how a string is escaped, say nothing any more. Numbers are taken as they were
    /// sent: `1` and `1.0` are two requests, and so are two integers that are one `f64`. What is nested more than 128
    /// deep is taken by its bytes.
    pub fn sorted_json(mut self) -> Self {
        self.members = Members::Sorted;
        self
    }

    /// Returns the headers whose values are taken.
    pub(super) fn chosen(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Returns the fields that are left out.
    pub(super) fn left_out(&self) -> &[Cow<'static, str>] {
        &self.left_out
    }

    pub(super) fn sorts_json(&self) -> bool {
        matches!(self.members, Members::Sorted)
    }

    /// Returns the fingerprint of a request whose body was read.
    ///
    /// The path is the one that was sent, not the route that it matches: two orders of one route are two requests. `key`
    /// says which field of the body is the key's own.
    ///
    /// # Cancel safety
    ///
    /// It never waits.
    pub async fn of(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
        key: &KeySource,
    ) -> Fingerprint {
        let mut parts = Fingerprint::builder()
            .part("method", method.as_str())
            .part("path", path);
        if let Some(query) = query {
            parts = parts.part("query", query);
        }
        for name in &self.headers {
            parts = parts.part("header", name);
            for value in headers.get_all(name) {
                parts = parts.part("header value", value);
            }
        }
        for coding in encodings(headers) {
            parts = parts.part("content coding", coding);
        }
        let left_out = LeftOut {
            names: &self.left_out,
            key: key.field_name(),
        };
        let meaning = self.meaning(headers, body, &left_out);
        let parts = media_type(parts, headers, &meaning);
        match meaning {
            Meaning::Form(fields) => parts.part("form", fields.as_bytes()),
            Meaning::Multipart(fields) => parts.part("multipart", fields.as_bytes()),
            Meaning::Members(members) => parts.part("members", members.as_bytes()),
            Meaning::Sorted(json) => parts.part("sorted", json),
            Meaning::Bytes => parts.part("bytes", body),
        }
        .build()
    }

    fn meaning(&self, headers: &HeaderMap, body: &Bytes, left_out: &LeftOut<'_>) -> Meaning {
        if body.is_empty() || is_encoded(headers) {
            return Meaning::Bytes;
        }
        let meaning = match (BodyFormat::of(headers), self.members) {
            (None, _) => None,
            (Some(BodyFormat::Form), _) => Some(Meaning::Form(form_fields(body, left_out))),
            (Some(BodyFormat::Multipart), _) => multipart_fields(headers, body, left_out).map(Meaning::Multipart),
            (Some(BodyFormat::Json), Members::Sorted) => sorted(body, left_out).map(Meaning::Sorted),
            (Some(BodyFormat::Json), Members::AsSent) => members(body, left_out).map(Meaning::Members),
        };
        meaning.unwrap_or(Meaning::Bytes)
    }
}

/// What a body says. Fields are digests of their own: what is left of those of a body that turns out to be unreadable is
/// never part of a fingerprint.
enum Meaning {
    Form(Fingerprint),
    Multipart(Fingerprint),
    Members(Fingerprint),
    Sorted(Vec<u8>),
    Bytes,
}

/// The fields that are no part of the meaning.
struct LeftOut<'a> {
    names: &'a [Cow<'static, str>],
    key: Option<&'a str>,
}

impl LeftOut<'_> {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.key.is_none()
    }

    fn has(&self, name: &str) -> bool {
        self.key == Some(name) || self.names.iter().any(|known| known == name)
    }
}

fn media_type(parts: FingerprintBuilder, headers: &HeaderMap, meaning: &Meaning) -> FingerprintBuilder {
    match MediaType::of(headers) {
        MediaType::Known { essence, parameters } => {
            // The boundary of a body that is not its parts tells what it may be to another reader.
            let is_said = |name: &str| !(matches!(meaning, Meaning::Multipart(_)) && name == "boundary");
            let said = parameters.iter().filter(|(name, _)| is_said(name));
            let parts = parts.part("media type", essence);
            said.fold(parts, |parts, (name, value)| {
                parts.part("parameter", name).part("parameter value", value)
            })
        }
        MediaType::AsSent(values) => values
            .iter()
            .fold(parts, |parts, value| parts.part("media type as sent", value)),
    }
}

fn form_fields(body: &[u8], left_out: &LeftOut<'_>) -> Fingerprint {
    let fields = form::fields(body).filter(|field| !left_out.has(&field.name));
    fields
        .fold(Fingerprint::builder(), |parts, field| {
            if field.is_lossy() {
                parts.part("field as sent", field.raw)
            } else {
                parts.part("name", &*field.name).part("value", &*field.value)
            }
        })
        .build()
}

fn multipart_fields(headers: &HeaderMap, body: &Bytes, left_out: &LeftOut<'_>) -> Option<Fingerprint> {
    let mut parts = Fingerprint::builder();
    let see = |part: multipart::Part| {
        if part.name.as_deref().is_some_and(|name| left_out.has(name)) {
            return;
        }
        // No name is there twice, and their order says nothing.
        let mut fields: Vec<_> = part.headers.iter().collect();
        fields.sort_unstable_by_key(|(name, _)| name.as_str());
        let mut digest = mem::take(&mut parts);
        for (name, value) in fields {
            digest = digest.part("header", name).part("header value", value);
        }
        parts = digest.part("bytes", part.bytes);
    };
    multipart::each_part(headers, body.clone(), see).ok()?;
    Some(parts.build())
}

/// The members as they were sent, if some may have to be left out.
fn members(body: &[u8], left_out: &LeftOut<'_>) -> Option<Fingerprint> {
    if left_out.is_empty() {
        return None;
    }
    let members = json::Json::read(body).ok()?.members().ok()??;
    let mut names = HashSet::with_capacity(members.len());
    let mut parts = Fingerprint::builder();
    for member in &members {
        if !names.insert(&*member.name) {
            return None;
        }
        if !left_out.has(&member.name) {
            parts = parts.part("name", &*member.name).part("value", member.value);
        }
    }
    Some(parts.build())
}

fn sorted(body: &[u8], left_out: &LeftOut<'_>) -> Option<Vec<u8>> {
    json::Json::read(body).ok()?.sorted(|name| left_out.has(name))
}
