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

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub const $name: &str = concat!(
            "https://docs.rs/oneflight/latest/oneflight/http/kind/constant.",
            stringify!($name),
            ".html"
        );
    )*};
}

kinds! {
    /// 400: the operation needs an idempotency key, and the request carries none.
    ///
    /// Make a key for each new operation (a UUID will do). Send it in the `Idempotency-Key` header or in the body field
    /// `idempotency_key`, and repeat the same key with every retry.
    KEY_MISSING;

    /// 400: what stands in the place of the key is not exactly one valid key.
    ///
    /// Send one value, quoted as in `Idempotency-Key: "8e03978e-40d5"`. If it stands in both header and body, it must
    /// be the same.
    KEY_MALFORMED;

    /// 400: the scope that the key would be valid in, such as a tenant or a user, is too long or has a character that
    /// is not accepted.
    SCOPE_MALFORMED;

    /// 400: the body cannot be read as what its `Content-Type` says.
    BODY_MALFORMED;

    /// 415: the body's `Content-Type` is missing, or is none that the operation understands.
    MEDIA_TYPE;

    /// 413: the body is larger than the operation accepts. The member `limit` is the limit in bytes.
    BODY_TOO_LARGE;

    /// 408: the body of the request did not arrive in time. The member `limit_ms` is the limit in milliseconds.
    BODY_TOO_SLOW;

    /// 403: it is not clear who sends the request, and a key is valid only for who made it.
    PRINCIPAL_MISSING;

    /// 422: the key was used before, with another payload.
    ///
    /// The request that first came with the key stands, and a client that repeats *that* request still gets its answer.
    /// A new operation needs a new key.
    ///
    /// For a service: if a retry gets this although its payload is the same, its fingerprint is not the one that its
    /// request had, or only one of the two has any. See [Fingerprints](super#fingerprints).
    KEY_REUSED;

    /// 409: a request with this key is being executed at this moment.
    ///
    /// Repeat the request with the same key after `Retry-After`. The answer will be that of the request that runs now.
    IN_PROGRESS;

    /// 409: a request with this key was begun and broke off, and it is not known whether it took effect.
    ///
    /// The service has been told not to guess. A repetition gets the same answer until an operator has settled the
    /// case. A new key might do the operation twice.
    IN_DOUBT;

    /// 503: the operation was begun, and it is not known whether it took effect: something that it depends on did not
    /// answer.
    ///
    /// Repeat the request with the same key after `Retry-After`. The answer is what became of the operation, if the
    /// service can find that out or may do it again. Until then the answer is [`IN_PROGRESS`], and if the service
    /// cannot find out, [`IN_DOUBT`]. A new key might do the operation twice.
    OUTCOME_UNKNOWN;

    /// 503: nothing was done, and nothing was recorded. Repeat the request with the same key after `Retry-After`.
    NOT_DONE;

    /// 503: the service cannot answer at the moment: its store does not answer, it has too much to do, or it is
    /// shutting down. Repeat the request with the same key after `Retry-After`; that is safe in every case.
    UNAVAILABLE;

    /// The operation was carried out before, and this is its outcome: the status is that of the first answer, and so is
    /// `Location`. The body of that answer is not kept, since it was too large, a stream, or secret.
    ///
    /// This is no failure. Under the same key, the answer stays this; under a new one, the operation is done again.
    OUTCOME_ONLY;

    /// 500: a bug of the service, such as a panic in the operation, a tenant that it left out of a key's scope, or a
    /// constraint of its database that the operation violates and has no answer to. The key stays safe to repeat, but
    /// that alone does not help.
    INTERNAL;
}
