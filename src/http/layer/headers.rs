//! Which header lines of an answer are kept for others, and which belong to one connection, session or user agent.
//!
//! RFC 9110, section 7.6.1, has the fields of a connection; the Fetch standard, section 3.3, those of CORS.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The header `Idempotency-Replayed`: `true` on an answer that was recorded earlier.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The header `Idempotency-Origin`: `executed`, `collapsed` or `replayed`, on every answer of a handler's to a request with a
/// key. See
/// [`Origin`](crate::Origin).
pub const IDEMPOTENCY_ORIGIN: HeaderName = HeaderName::from_static("idempotency-origin");

/// The header `Idempotency-Original-Date`: when the answer that is replayed was given, in the form of `Date`.
pub const IDEMPOTENCY_ORIGINAL_DATE: HeaderName = HeaderName::from_static("idempotency-original-date");

/// The header lines of an answer that others may have.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// In their order, repeated ones too.
    pub(super) shared: HeaderMap,
    /// How many lines of `Set-Cookie` are not among them.
    pub(super) cookies: usize,
}

/// Sorts out the lines of an answer that nobody but its own client may have.
pub(super) fn sorted(all: &HeaderMap) -> Sorted {
    let named: Vec<HeaderName> = named_by_connection(all);
    let mut sorted = Sorted {
        shared: with_room(all.len()),
        cookies: 0,
    };
    for (name, value) in all {
        if *name == header::SET_COOKIE {
            sorted.cookies += 1;
        } else if !is_of_one_client(name) && !named.contains(name) {
            sorted.shared.append(name.clone(), value.clone());
        }
    }
    sorted
}

/// Returns a map for so many lines, and for those that the layer adds to them.
pub(super) fn with_room(lines: usize) -> HeaderMap {
    const ADDED: usize = 4;
    // More lines than a map can hold names are lines of few names.
    HeaderMap::try_with_capacity(lines + ADDED).unwrap_or_default()
}

/// The fields that `Connection` says are of the connection.
fn named_by_connection(all: &HeaderMap) -> Vec<HeaderName> {
    let values = all.get_all(header::CONNECTION).iter();
    let names = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    names.filter_map(|name| name.trim().parse().ok()).collect()
}

/// Whether a line belongs to one message, connection, session or user agent.
fn is_of_one_client(name: &HeaderName) -> bool {
    // Of a connection.
    let connection = matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "alt-svc"
    );
    // Of a message: they are made anew.
    let message = matches!(
        name.as_str(),
        "date"
            | "age"
            | "content-length"
            | "server-timing"
            | "x-request-id"
            | "x-correlation-id"
            | "traceparent"
            | "tracestate"
            | "traceresponse"
            | "idempotency-origin"
            | "idempotency-replayed"
            | "idempotent-replayed"
            | "idempotency-original-date"
    );
    // Of a session or a user agent.
    let agent = matches!(
        name.as_str(),
        "set-cookie" | "set-cookie2" | "authentication-info" | "clear-site-data" | "accept-ch"
    );
    connection || message || agent || name.as_str().starts_with("access-control-")
}

/// Adds a line of the layer's to an answer. One of as many lines as a map can hold goes without.
pub(super) fn put(lines: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _ = lines.try_insert(name, value);
}

/// Returns a date in the form that `Date` has (RFC 9110, section 5.6.7).
pub(super) fn date(at: std::time::SystemTime) -> Option<HeaderValue> {
    // Dates before 1970 and after 9999 have no such form, and `fmt_http_date` panics at them.
    const LAST: u64 = 253_402_300_799;
    let seconds = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    match seconds <= LAST {
        true => HeaderValue::try_from(httpdate::fmt_http_date(at)).ok(),
        false => None,
    }
}
