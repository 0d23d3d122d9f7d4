//! Which header lines pass from one connection to the other (RFC 9110, section 7.6).

use http::header::{
    self, CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Version};
use http_body::Body;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Of one connection, whether or not `Connection` names them.
const OF_A_CONNECTION: [HeaderName; 6] = [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];

/// What a client asked for besides an answer, by header lines that are its connection's.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Another protocol on this connection.
    pub(super) upgrade: Option<HeaderValue>,
    /// Trailers behind the answer.
    pub(super) trailers: bool,
}

impl Asked {
    /// Reads what is asked for.
    pub(super) fn of(lines: &HeaderMap) -> Self {
        let upgrade = match names(lines, "upgrade") {
            true => lines.get(UPGRADE).cloned(),
            false => None,
        };
        let accepts = lines.get_all(TE).iter();
        let trailers = accepts.filter_map(|value| value.to_str().ok()).any(|value| {
            let mut codings = value.split(',');
            codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        });
        Self { upgrade, trailers }
    }
}

/// Whether `Connection` names this option.
fn names(lines: &HeaderMap, option: &str) -> bool {
    let values = lines.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(option))
}

/// Whether `Transfer-Encoding` says nothing that is lost when a body leaves its connection.
pub(super) fn is_only_chunked(lines: &HeaderMap) -> bool {
    let mut values = lines.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Has a body whose length is not known sent in chunks, whatever the method is: of some, hyper takes it that they have none.
pub(super) fn frame(lines: &mut HeaderMap, body: &impl Body) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        lines.remove(header::CONTENT_LENGTH);
        lines.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Takes away what belongs to the connection that the message came by.
pub(super) fn leave_connection(lines: &mut HeaderMap) {
    if lines.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = lines
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // What says how the message ends, and whom it is for, is not theirs to name.
            .filter(|name| !matches!(*name, header::CONTENT_LENGTH | HOST | TRAILER))
            .collect();
        for name in named {
            lines.remove(name);
        }
    }
    for name in OF_A_CONNECTION {
        lines.remove(name);
    }
}

/// Puts upon a request what the connection to the backend needs.
pub(super) fn enter_backend(lines: &mut HeaderMap, asked: &Asked) {
    if let Some(protocol) = &asked.upgrade {
        lines.insert(UPGRADE, protocol.clone());
        lines.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if asked.trailers {
        lines.insert(TE, HeaderValue::from_static("trailers"));
        // An option of this connection, as section 10.1.4 wants it.
        let options = match asked.upgrade {
            Some(_) => HeaderValue::from_static("upgrade, te"),
            None => HeaderValue::from_static("te"),
        };
        lines.insert(CONNECTION, options);
    }
}

/// Adds the proxy to those that the message came through.
pub(super) fn via(lines: &mut HeaderMap, version: Version, name: &str) {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{protocol} {name}")) {
        let _ = lines.try_append(VIA, value);
    }
}

/// Joins the lines of `Cookie`, which HTTP/2 may have split (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(lines: &mut HeaderMap) {
    let all: Vec<&[u8]> = lines.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        lines.insert(COOKIE, joined);
    }
}

/// Whether the backend is to say first whether it wants the body.
pub(super) fn expects_continue(lines: &HeaderMap) -> bool {
    let expected = lines.get(EXPECT);
    expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What is left of the number of hops that a request may take (RFC 9110, section 7.6.2).
pub(super) enum Hops {
    Enough,
    None,
}

/// Counts this hop, for the methods that have it counted.
pub(super) fn count_hop(method: &Method, lines: &mut HeaderMap) -> Hops {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return Hops::Enough;
    }
    let left = lines
        .get(MAX_FORWARDS)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match left {
        None => Hops::Enough,
        Some(0) => Hops::None,
        Some(left) => {
            lines.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Hops::Enough
        }
    }
}
