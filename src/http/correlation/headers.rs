//! The correlation id as it stands in a request and in the headers of HTTP.

use http::Request;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::traceparent::trace_id;
use crate::correlation::CorrelationId;

/// The name of the `X-Correlation-Id` header.
pub const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The name of the `X-Request-Id` header.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of the `traceparent` header of [W3C Trace Context](https://www.w3.org/TR/trace-context-1/).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id in the headers of HTTP, under the feature `http`.
impl CorrelationId {
    /// Returns the id that a request carries, or a new one.
    ///
    /// It is looked for here, in this order:
    ///
    /// 1. `X-Correlation-Id`, which services hand on unchanged;
    /// 2. `X-Request-Id`, which many proxies set anew at each hop;
    /// 3. `traceparent`, whose trace id it is then.
    ///
    /// A header that is repeated, that [`new`](Self::new) rejects, or that is no well-formed `traceparent`, counts as
    /// missing: a bad correlation id is no reason to turn a request away.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue};
    /// use oneflight::http::{CorrelationId, TRACEPARENT, X_REQUEST_ID};
    ///
    /// let mut headers = HeaderMap::new();
    /// let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// headers.insert(TRACEPARENT, HeaderValue::from_static(trace));
    /// assert_eq!(CorrelationId::from_headers(&headers).as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
    ///
    /// headers.insert(X_REQUEST_ID, HeaderValue::from_static("edge-5f2c"));
    /// assert_eq!(CorrelationId::from_headers(&headers).as_str(), "edge-5f2c");
    ///
    /// let fresh = CorrelationId::from_headers(&HeaderMap::new());
    /// assert_eq!(fresh.as_str().len(), 36);
    /// ```
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let named = |name| Self::new(the(headers, name)?).ok();
        named(X_CORRELATION_ID)
            .or_else(|| named(X_REQUEST_ID))
            .or_else(|| Self::new(trace_id(the(headers, TRACEPARENT)?)?).ok())
            .unwrap_or_else(Self::random)
    }

    /// Returns the id in the extensions of a request, where a middleware has put it, or else what
    /// [`from_headers`](Self::from_headers) returns.
    ///
    /// ```
    /// use http::Request;
    /// use oneflight::http::CorrelationId;
    ///
    /// let mut request = Request::get("/").header("X-Request-Id", "edge-5f2c").body(())?;
    /// assert_eq!(CorrelationId::of_request(&request).as_str(), "edge-5f2c");
    ///
    /// let id = CorrelationId::random();
    /// request.extensions_mut().insert(id.clone());
    /// assert_eq!(CorrelationId::of_request(&request), id);
    /// # Ok::<(), http::Error>(())
    /// ```
    #[must_use]
    pub fn of_request<B>(request: &Request<B>) -> Self {
        let known = request.extensions().get().cloned();
        known.unwrap_or_else(|| Self::from_headers(request.headers()))
    }

    /// Returns the id as the value of a header, to answer with or to hand on.
    #[must_use]
    pub fn to_header_value(&self) -> HeaderValue {
        // Visible ASCII is always a valid value, so that the fallback is never taken.
        HeaderValue::from_str(self.as_str()).unwrap_or(HeaderValue::from_static("unprintable"))
    }
}

/// The value of a header that stands there once.
fn the(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    match values.next() {
        None => value.to_str().ok(),
        Some(_) => None,
    }
}

/// The `X-Request-Id` to answer with, if the client sent one: its own, or the correlation id if that cannot be sent back.
pub(super) fn request_id(headers: &HeaderMap, id: &CorrelationId) -> Option<HeaderValue> {
    headers.contains_key(X_REQUEST_ID).then(|| {
        let own = the(headers, X_REQUEST_ID).and_then(|value| CorrelationId::new(value).ok());
        own.as_ref().unwrap_or(id).to_header_value()
    })
}
