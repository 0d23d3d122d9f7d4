//! In whose words the layer tells clients what it has to tell: the draft's, those that Stripe's SDKs know, or gRPC's.
//!
//! A dialect words problems and marks answers. It does not know how a request is executed, or what is recorded.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use super::headers::put;
use crate::http::kind;
use crate::http::problem::Problem;
use crate::idempotency::Origin;

/// Whether the SDK sends the request again by itself: `true` or `false`, whatever the status.
const STRIPE_SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");

/// Stripe's name for `Idempotency-Replayed`.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The rules by which the layer's clients read its problems, and decide what to repeat.
///
/// ```
/// use oneflight::http::layer::{Dialect, IdempotencyLayer};
/// use oneflight::{Idempotency, MemoryStore};
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
/// let layer = IdempotencyLayer::new(idem).dialect(Dialect::Stripe);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Problems are `application/problem+json` (RFC 9457), with the statuses of
    /// [draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
    #[default]
    Draft,
    /// For clients that are Stripe's SDKs, or are written like them. stripe-node takes a problem of the draft's form for the
    /// result, whatever its status.
    ///
    /// * Problems are [Stripe's errors](https://docs.stripe.com/api/errors): `{"error": {"type", "code", "message", "doc_url"}}`.
    ///   `doc_url` is the service's [documentation](super::IdempotencyLayer::documentation), or else the address of the
    ///   [kind]. `code` is the kind's name in lower case, unless Stripe has one of its own.
    /// * Another payload under a used key is a 400 of the type `idempotency_error`, not a 422: the SDKs know no other.
    /// * A request that is still running is a 409 with the code `idempotency_key_in_use`.
    /// * `Stripe-Should-Retry` is `true` with problems that pass, and `false` with all others.
    /// * `Stripe-Should-Retry` is `false` with recorded answers of the statuses 409 and 5xx, from the first one on. The SDKs repeat such
    ///   unasked, and would be answered by the record each time. Where the handler of a recorded answer says `true`, that is
    ///   replaced.
    /// * `Idempotent-Replayed: true` is sent beside `Idempotency-Replayed`.
    ///
    /// A key is valid for one route. To have its use at another route be an error, as it is at Stripe, name all
    /// [routes](super::IdempotencyLayer::route) alike: the path is a part of the fingerprint.
    Stripe,
    /// For clients of gRPC, which take the body of a problem for a broken answer.
    ///
    /// Problems are [answers without a message](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses)
    /// ("Trailers-Only"): the status of HTTP is 200, `grpc-status` is by the table, `grpc-message` is the problem's detail.
    ///
    /// | problem | `grpc-status` |
    /// | --- | --- |
    /// | [`KEY_REUSED`](kind::KEY_REUSED), and any other 400 or 415 | `INVALID_ARGUMENT` |
    /// | [`IN_PROGRESS`](kind::IN_PROGRESS), and any 503 | `UNAVAILABLE`: call again, with the same key |
    /// | [`IN_DOUBT`](kind::IN_DOUBT) | `FAILED_PRECONDITION`: do not call again until that is settled |
    /// | [`OUTCOME_ONLY`](kind::OUTCOME_ONLY) | `ALREADY_EXISTS`: it was done, and its message is not kept |
    /// | a 401 or 403 | `UNAUTHENTICATED` or `PERMISSION_DENIED` |
    /// | a 408 or 413 | `DEADLINE_EXCEEDED` or `RESOURCE_EXHAUSTED` |
    /// | any other | `INTERNAL` from the status 500 on, and else `UNKNOWN` |
    ///
    /// To HTTP, a failure of gRPC is a 200 as well, and so it is recorded. To have calls tried again that the service could
    /// not take up, set by [`Recording::by`](super::Recording::by) that a `grpc-status` of 14 is
    /// [`Outcome::NothingDone`](super::Outcome::NothingDone).
    Grpc,
}

impl Dialect {
    /// Returns the status of a problem that has this one in the draft.
    pub(super) fn status(self, uri: &str, status: StatusCode) -> StatusCode {
        match (self, uri) {
            (Self::Stripe, kind::KEY_REUSED) => StatusCode::BAD_REQUEST,
            (Self::Grpc, _) => StatusCode::OK,
            _ => status,
        }
    }

    /// Words a problem.
    pub(super) fn told(self, problem: Problem, documentation: Option<&str>) -> Response<String> {
        let problem = match documentation {
            Some(uri) => problem.with_documentation(uri),
            None => problem,
        };
        match self {
            Self::Draft => problem.into_response(),
            Self::Stripe => stripes(problem, documentation),
            Self::Grpc => grpcs(problem),
        }
    }

    /// Marks an answer that the handler gave, now or earlier.
    pub(super) fn mark(self, status: StatusCode, headers: &mut HeaderMap, origin: Origin, is_recorded: bool) {
        match self {
            Self::Draft | Self::Grpc => {}
            Self::Stripe => {
                if is_recorded && (is_repeated(status) || headers.contains_key(STRIPE_SHOULD_RETRY)) {
                    put(headers, STRIPE_SHOULD_RETRY, HeaderValue::from_static("false"));
                }
                if origin == Origin::Replayed {
                    put(headers, IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
                }
            }
        }
    }
}

/// Whether the SDKs repeat a request that is answered so, unless they are told not to.
fn is_repeated(status: StatusCode) -> bool {
    status == StatusCode::CONFLICT || status.is_server_error()
}

fn stripes(problem: Problem, documentation: Option<&str>) -> Response<String> {
    let uri = problem.type_uri();
    let status = Dialect::Stripe.status(uri, problem.status());
    let of_type = match uri {
        kind::KEY_REUSED | kind::IN_PROGRESS | kind::IN_DOUBT => "idempotency_error",
        _ if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    let told = Told {
        error: Error {
            of_type,
            code: code(uri),
            message: problem.detail().unwrap_or(problem.title()),
            doc_url: documentation.or(Some(uri).filter(|uri| uri.starts_with("https:"))),
        },
    };
    // Text can be written as JSON, so that the empty object is never sent.
    let body = serde_json::to_string(&told).unwrap_or_else(|_| "{}".to_owned());
    let should_retry = match problem.retry_after() {
        Some(_) => "true",
        None => "false",
    };
    let mut response = problem.into_response::<String>().map(|_| body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(STRIPE_SHOULD_RETRY, HeaderValue::from_static(should_retry));
    response
}

#[derive(Serialize)]
struct Told<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    #[serde(rename = "type")]
    of_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    doc_url: Option<&'a str>,
}

/// The kind's name as Stripe spells codes.
pub(super) fn code(uri: &str) -> Option<String> {
    match uri {
        kind::IN_PROGRESS => Some("idempotency_key_in_use".to_owned()),
        _ => {
            let (_, page) = uri.split_once("/oneflight/http/kind/constant.")?;
            Some(page.strip_suffix(".html")?.to_ascii_lowercase())
        }
    }
}

/// The [status of gRPC](https://grpc.github.io/grpc/core/md_doc_statuscodes.html) for a problem.
pub(super) fn grpc_status(uri: &str, status: StatusCode) -> u16 {
    match (uri, status.as_u16()) {
        (kind::OUTCOME_ONLY, _) => 6,
        (kind::IN_DOUBT, _) => 9,
        (kind::IN_PROGRESS, _) | (_, 503) => 14,
        (kind::KEY_REUSED, _) | (_, 400 | 415) => 3,
        (_, 401) => 16,
        (_, 403) => 7,
        (_, 408) => 4,
        (_, 413) => 8,
        (_, 500..) => 13,
        _ => 2,
    }
}

fn grpcs(problem: Problem) -> Response<String> {
    let code = grpc_status(problem.type_uri(), problem.status());
    let message = percent_encoded(problem.detail().unwrap_or(problem.title()));
    let mut response = problem.into_response::<String>().map(|_| String::new());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// Everything but printable ASCII, and the sign of percent.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..0x20 | 0x7F.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}
