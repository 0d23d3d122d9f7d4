//! Problem details (RFC 9457): what a client is told when its request was not carried out.
//!
//! A [`Problem`] is built from an error or by hand, and turned into an `http::Response` of whatever body type the
//! framework has. It knows nothing of logs: what is only for the operator stays in the error that it was made from.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LINK, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::kind::{Kind, described};

/// The members that RFC 9457 defines, and the one that is derived from a header.
const RESERVED: [&str; 6] = ["type", "title", "status", "detail", "instance", "retry_after"];

/// A problem to answer with, as `application/problem+json`.
///
/// Made from an error with `?` or `From`, or by hand for what the application itself rejects:
///
/// ```
/// use http::StatusCode;
/// use oneflight::http::Problem;
/// use std::time::Duration;
///
/// let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
///     .with_type("https://shop.example/problems/closed")
///     .with_title("The shop is closed")
///     .with_detail("Orders are taken from 8 to 20 o'clock.")
///     .with_retry_after(Duration::from_secs(3600))
///     .with_member("opens_at", "08:00");
///
/// let response: http::Response<String> = problem.into_response();
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "3600");
/// assert_eq!(
///     *response.body(),
///     r#"{"type":"https://shop.example/problems/closed","title":"The shop is closed","status":503,"#.to_owned()
///         + r#""detail":"Orders are taken from 8 to 20 o'clock.","retry_after":3600,"opens_at":"08:00"}"#
/// );
/// ```
#[derive(Clone, PartialEq)]
#[must_use = "a problem does nothing until it is answered with"]
pub struct Problem(Box<Parts>);

/// Boxed, since a problem is an error: every result has room for it, and few have it.
#[derive(Clone, PartialEq)]
struct Parts {
    status: StatusCode,
    type_uri: Cow<'static, str>,
    title: Cow<'static, str>,
    detail: Option<Cow<'static, str>>,
    instance: Option<Cow<'static, str>>,
    documentation: Option<HeaderValue>,
    retry_after: Option<Duration>,
    members: Vec<(Cow<'static, str>, Value)>,
}

impl Problem {
    /// Makes a problem of no particular type: `about:blank`, with the status's own phrase as its title.
    pub fn new(status: StatusCode) -> Self {
        Self(Box::new(Parts {
            status,
            type_uri: Cow::Borrowed("about:blank"),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Unknown status")),
            detail: None,
            instance: None,
            documentation: None,
            retry_after: None,
            members: Vec::new(),
        }))
    }

    /// Makes a 400: the body cannot be read as what it says it is.
    pub fn malformed_body(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of_kind(described::BODY_MALFORMED).with_detail(detail)
    }

    /// Makes a 413: the body has more than `limit` bytes.
    pub fn body_too_large(limit: usize) -> Self {
        Self::of_kind(described::BODY_TOO_LARGE)
            .with_detail(format!("The body may have up to {limit} bytes: send less."))
            .with_member("limit", limit)
    }

    /// Makes a 413: the body has more bytes than some layer further out lets through.
    pub(super) fn body_over_a_limit() -> Self {
        Self::of_kind(described::BODY_TOO_LARGE).with_detail("The body is larger than the service takes: send less.")
    }

    /// Makes a 415: the body is in none of the formats that the operation understands.
    ///
    /// `accepted` is for people, such as `application/json or a form`.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::of_kind(described::MEDIA_TYPE).with_detail(format!("Send {accepted}, and say so in Content-Type."))
    }

    /// Makes a 408: the body did not arrive within `limit`.
    pub fn body_too_slow(limit: Duration) -> Self {
        Self::of_kind(described::BODY_TOO_SLOW)
            .with_detail(format!(
                "The body may take up to {limit:?}: send it again, with the same key."
            ))
            .with_member("limit_ms", u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// Makes a 403: it is not clear whose request it is, so there is no [scope](crate::Scope) for its key.
    pub fn principal_missing() -> Self {
        Self::of_kind(described::PRINCIPAL_MISSING).with_detail(
            "An idempotency key is valid only for the client that made it, and the request does not say who that is. \
             Authenticate, and send it again with the same key. Nothing was done.",
        )
    }

    /// A kind whose status is that of another answer needs [`with_status`](Self::with_status).
    pub(super) fn of_kind(kind: Kind) -> Self {
        let status = kind.status.unwrap_or_default();
        Self::new(status).with_type(kind.uri).with_title(kind.title)
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// Sets the type: a URI that identifies it, preferably one that leads to its documentation.
    pub fn with_type(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.0.type_uri = uri.into();
        self
    }

    /// Sets the title: a short summary that is the same for every problem of this type.
    pub fn with_title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.0.title = title.into();
        self
    }

    /// Sets the detail: what happened this time, and what to do about it. It goes to the client, so it must have
    /// nothing internal.
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Sets the instance: a URI for this occurrence.
    pub fn with_instance(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.0.instance = Some(uri.into());
        self
    }

    /// Links to documentation, by the header `Link` with the relation `describedby`, as
    /// draft-ietf-httpapi-idempotency-key-header shows it in section 2.7.
    ///
    /// An address with characters that have no place in one is ignored: visible ASCII without `<` and `>` is accepted.
    pub fn with_documentation(mut self, uri: &str) -> Self {
        if uri
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'))
        {
            let link = format!("<{uri}>; rel=\"describedby\"; type=\"text/html\"");
            self.0.documentation = HeaderValue::try_from(link).ok();
        }
        self
    }

    /// Asks the client to wait this long before it repeats the request.
    ///
    /// The time is sent in whole seconds, rounded up and at least one, as the header `Retry-After` and as the member
    /// `retry_after`.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds an extension member, or replaces the one of that name.
    ///
    /// The names `type`, `title`, `status`, `detail`, `instance` and `retry_after` are taken and have methods of their
    /// own. A member of such a name is ignored.
    pub fn with_member(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        let (name, value) = (name.into(), value.into());
        if !RESERVED.contains(&name.as_ref()) {
            self.0.members.retain(|(known, _)| *known != name);
            self.0.members.push((name, value));
        }
        self
    }

    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the type, as a URI; see [`kind`](super::kind).
    #[must_use]
    pub fn type_uri(&self) -> &str {
        &self.0.type_uri
    }

    /// Returns the title.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.0.title
    }

    /// Returns the detail, if there is one.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns how long the client is asked to wait, if it is.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the extension member of that name, if there is one.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.0
            .members
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        self.0.retry_after.map(|wait| {
            let rounded_up = u64::from(wait.subsec_nanos() > 0);
            wait.as_secs().saturating_add(rounded_up).max(1)
        })
    }

    /// Makes the response to send, with a body of the framework's own type: `String`, `Vec<u8>`, `bytes::Bytes`,
    /// `axum::body::Body`, `http_body_util::Full<Bytes>` and others can all be made from a `String`.
    ///
    /// It is marked `Cache-Control: no-store`: a problem that is over must not be served from a cache.
    #[must_use]
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        // Every part of a problem can be written as JSON, so that the empty object is never sent.
        let body = serde_json::to_string(&self).unwrap_or_else(|_| "{}".to_owned());
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(link) = self.0.documentation {
            headers.insert(LINK, link);
        }
        response
    }
}

impl fmt::Debug for Problem {
    /// Leaves out the values of the members, which may hold what the application put there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.members.iter().map(|(name, _)| name).collect();
        f.debug_struct("Problem")
            .field("status", &self.0.status)
            .field("type", &self.0.type_uri)
            .field("title", &self.0.title)
            .field("detail", &self.0.detail)
            .field("retry_after", &self.0.retry_after)
            .field("members", &names)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.status.as_u16(), self.0.title)?;
        self.0.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

/// Lets `?` take it where any error is returned.
impl std::error::Error for Problem {}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.0.type_uri)?;
        map.serialize_entry("title", &self.0.title)?;
        map.serialize_entry("status", &self.0.status.as_u16())?;
        if let Some(detail) = &self.0.detail {
            map.serialize_entry("detail", detail)?;
        }
        if let Some(instance) = &self.0.instance {
            map.serialize_entry("instance", instance)?;
        }
        if let Some(seconds) = self.retry_after_seconds() {
            map.serialize_entry("retry_after", &seconds)?;
        }
        for (name, value) in &self.0.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<B: From<String>> From<Problem> for Response<B> {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for Problem {
    fn into_response(self) -> axum_core::response::Response {
        self.into_response()
    }
}
