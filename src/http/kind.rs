//! The types of problems that this crate answers with, as URIs (RFC 9457, section 3.1.1).
//!
//! Each URI is an identifier to compare with, and also the address of the page that documents it: the page of the
//! constant itself. A client decides by the type, or by the status, and never by the wording of title or detail.
//!
//! A problem that comes from executing the request has the member `effect` as well: `nothing`, `done` or `unknown` says
//! what is known of the operation itself. `nothing` is said of this request only. Another one with the same key may be
//! at work where that cannot be seen, so the client keeps the key.
//!
//! | type | status | did anything happen? | what the client does |
//! | --- | --- | --- | --- |
//! | [`KEY_MISSING`] | 400 | no | sends a key |
//! | [`KEY_MALFORMED`] | 400 | no | sends one valid key |
//! | [`SCOPE_MALFORMED`] | 400 | no | sends its tenant or user as the service documents |
//! | [`BODY_MALFORMED`] | 400 | no | mends the body |
//! | [`MEDIA_TYPE`] | 415 | no | sends another `Content-Type` |
//! | [`BODY_TOO_LARGE`] | 413 | no | sends less |
//! | [`BODY_TOO_SLOW`] | 408 | no | sends faster |
//! | [`PRINCIPAL_MISSING`] | 403 | no | says who it is, as the service documents |
//! | [`KEY_REUSED`] | 422 | only what the key's first request did | a new key for a new operation |
//! | [`IN_PROGRESS`] | 409 | it is happening | waits for `Retry-After`, repeats with the same key |
//! | [`IN_DOUBT`] | 409 | nobody knows yet | keeps the key and asks the operator |
//! | [`OUTCOME_UNKNOWN`] | 503 | nobody knows yet | waits, repeats with the same key |
//! | [`NOT_DONE`] | 503 | no | waits, repeats with the same key |
//! | [`UNAVAILABLE`] | 503 | perhaps | waits, repeats with the same key |
//! | [`OUTCOME_ONLY`] | the first answer's | yes, once | looks the result up, at `Location` if there is one |
//! | [`INTERNAL`] | 500 | perhaps | tells the operator; the same key stays safe |

use http::StatusCode;

/// A type of problems, and what RFC 9457, section 4, has a type document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) uri: &'static str,
    /// `None` if it is that of another answer.
    pub(super) status: Option<StatusCode>,
    pub(super) title: &'static str,
    /// Did anything happen?
    pub(super) effect: &'static str,
    /// What does the client do?
    pub(super) advice: &'static str,
}

macro_rules! status {
    (first) => {
        None
    };
    ($status:ident) => {
        Some(StatusCode::$status)
    };
}

/// The one source of the constants with their pages, of the problems that are answered with, and of what is generated for
/// clients.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $status:ident, $title:literal, $effect:literal, $advice:literal;)*) => {
        $(
            $(#[$doc])*
            #[doc = ""]
            #[doc = concat!("Title: \"", $title, "\".")]
            pub const $name: &str = concat!(
                "https://docs.rs/oneflight/latest/oneflight/http/kind/constant.",
                stringify!($name),
                ".html"
            );
        )*

        /// The kinds under the names of their types.
        pub(super) mod described {
            use super::Kind;
            use http::StatusCode;

            $(
                pub(in crate::http) const $name: Kind = Kind {
                    name: stringify!($name),
                    uri: super::$name,
                    status: status!($status),
                    title: $title,
                    effect: $effect,
                    advice: $advice,
                };
            )*

            /// All of them, in the order of the table above.
            pub(in crate::http) const ALL: &[Kind] = &[$($name),*];
        }
    };
}

kinds! {
    /// 400: the operation needs an idempotency key, and the request carries none.
    ///
    /// Make a key for each new operation (a UUID will do). Send it in the `Idempotency-Key` header or in the body field
    /// `idempotency_key`, and repeat the same key with every retry.
    KEY_MISSING: BAD_REQUEST, "An idempotency key is required",
        "no", "sends a key";

    /// 400: what stands in the place of the key is not exactly one valid key.
    ///
    /// Send one value, quoted as in `Idempotency-Key: "8e03978e-40d5"`. If it stands in both header and body, it must
    /// be the same.
    KEY_MALFORMED: BAD_REQUEST, "The idempotency key is malformed",
        "no", "sends one valid key";

    /// 400: the scope that the key would be valid in, such as a tenant or a user, is too long or has a character that
    /// is not accepted.
    SCOPE_MALFORMED: BAD_REQUEST, "The scope of the key is malformed",
        "no", "sends its tenant or user as the service documents";

    /// 400: the body cannot be read as what its `Content-Type` says.
    BODY_MALFORMED: BAD_REQUEST, "The body cannot be read",
        "no", "mends the body";

    /// 415: the body's `Content-Type` is missing, or is none that the operation understands.
    MEDIA_TYPE: UNSUPPORTED_MEDIA_TYPE, "The body's format is not understood",
        "no", "sends another `Content-Type`";

    /// 413: the body is larger than the operation accepts. The member `limit` is the limit in bytes.
    BODY_TOO_LARGE: PAYLOAD_TOO_LARGE, "The body is too large",
        "no", "sends less";

    /// 408: the body of the request did not arrive in time. The member `limit_ms` is the limit in milliseconds.
    BODY_TOO_SLOW: REQUEST_TIMEOUT, "The body did not arrive in time",
        "no", "sends faster";

    /// 403: it is not clear who sends the request, and a key is valid only for who made it.
    PRINCIPAL_MISSING: FORBIDDEN, "It is not clear who sends the request",
        "no", "says who it is, as the service documents";

    /// 422: the key was used before, with another payload.
    ///
    /// The request that first came with the key stands, and a client that repeats *that* request still gets its answer.
    /// A new operation needs a new key.
    ///
    /// For a service: if a retry gets this although its payload is the same, its fingerprint is not the one that its
    /// request had, or only one of the two has any. See [Fingerprints](super#fingerprints).
    KEY_REUSED: UNPROCESSABLE_ENTITY, "The idempotency key was used for another request",
        "only what the key's first request did", "a new key for a new operation";

    /// 409: a request with this key is being executed at this moment.
    ///
    /// Repeat the request with the same key after `Retry-After`. The answer will be that of the request that runs now.
    IN_PROGRESS: CONFLICT, "The request is being executed",
        "it is happening", "waits for `Retry-After`, repeats with the same key";

    /// 409: a request with this key was begun and broke off, and it is not known whether it took effect.
    ///
    /// The service has been told not to guess. A repetition gets the same answer until an operator has settled the
    /// case. A new key might do the operation twice.
    IN_DOUBT: CONFLICT, "Whether the request took effect is not known",
        "nobody knows yet", "keeps the key and asks the operator";

    /// 503: the operation was begun, and it is not known whether it took effect: something that it depends on did not
    /// answer.
    ///
    /// Repeat the request with the same key after `Retry-After`. The answer is what became of the operation, if the
    /// service can find that out or may do it again. Until then the answer is [`IN_PROGRESS`], and if the service
    /// cannot find out, [`IN_DOUBT`]. A new key might do the operation twice.
    OUTCOME_UNKNOWN: SERVICE_UNAVAILABLE, "Whether the operation took effect is not known yet",
        "nobody knows yet", "waits, repeats with the same key";

    /// 503: nothing was done, and nothing was recorded. Repeat the request with the same key after `Retry-After`.
    NOT_DONE: SERVICE_UNAVAILABLE, "Nothing was done",
        "no", "waits, repeats with the same key";

    /// 503: the service cannot answer at the moment: its store does not answer, it has too much to do, or it is
    /// shutting down. Repeat the request with the same key after `Retry-After`; that is safe in every case.
    UNAVAILABLE: SERVICE_UNAVAILABLE, "The service cannot answer at the moment",
        "perhaps", "waits, repeats with the same key";

    /// The operation was carried out before, and this is its outcome: the status is that of the first answer, and so is
    /// `Location`. The body of that answer is not kept, since it was too large, a stream, or secret, or was erased since; of
    /// what was erased, the status alone is left. Where that is not known either, it is 200: the answer was recorded by a codec of
    /// the service's own, or by no layer, and was erased.
    ///
    /// This is no failure. Under the same key, the answer stays this; under a new one, the operation is done again.
    OUTCOME_ONLY: first, "The answer's body is not kept",
        "yes, once", "looks the result up, at `Location` if there is one";

    /// 500: a bug of the service, such as a panic in the operation, a tenant that it left out of a key's scope, or a
    /// constraint of its database that the operation violates and has no answer to. The key stays safe to repeat, but
    /// that alone does not help.
    INTERNAL: INTERNAL_SERVER_ERROR, "Internal error",
        "perhaps", "tells the operator; the same key stays safe";
}
