//! The key of a request by the names that the draft and this crate have, without a [`KeySource`] of one's own.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::HeaderMap;

use super::error::KeyError;
use super::names::KEY_FIELD;
use super::source::KeySource;
use crate::identity::IdempotencyKey;

/// The header `Idempotency-Key`, and the field `idempotency_key`.
fn known_places() -> KeySource {
    KeySource::new().field(KEY_FIELD)
}

/// Returns the idempotency key of a request that must carry one. This is [`find_key`], with an error if there is none.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
/// use oneflight::http::{KeyError, require_key};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// let key = require_key(&headers, br#"{"item": "tea", "idempotency_key": "order-17"}"#)?;
/// assert_eq!(key.as_str(), "order-17");
///
/// assert!(matches!(require_key(&headers, b"{}"), Err(KeyError::Missing { .. })));
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Missing`] if there is no key, and every error of [`find_key`].
pub fn require_key(headers: &HeaderMap, body: &[u8]) -> Result<IdempotencyKey, KeyError> {
    find_key(headers, body)?.ok_or_else(|| known_places().missing())
}

/// Returns the idempotency key of a request, from its header or from the body that its `Content-Type` describes.
///
/// Both places are looked at. The same key may stand in both. Two different keys are an error, since to prefer either
/// would be a guess. A body in another format (see [`BodyFormat::of`](crate::http::BodyFormat::of)), or an empty one, carries no key. The body is
/// read as a whole: limit its size before.
///
/// The key is the same wherever it stands, but the body is not. So leave the key out of a
/// [fingerprint](crate::http#fingerprints).
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
/// use oneflight::http::{IDEMPOTENCY_KEY, KeyError, find_key};
///
/// let mut headers = HeaderMap::new();
/// assert!(find_key(&headers, b"")?.is_none());
///
/// headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("order-17"));
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
/// assert!(find_key(&headers, b"item=tea&idempotency_key=order-17")?.is_some());
/// assert!(matches!(
///     find_key(&headers, b"item=tea&idempotency_key=order-18"),
///     Err(KeyError::Differ { .. })
/// ));
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// Every error of [`KeySource::find`](crate::http::KeySource::find), over the header and the field `idempotency_key`.
pub fn find_key(headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, KeyError> {
    known_places().search(headers, body, || Bytes::copy_from_slice(body))
}

/// Returns the key in the `Idempotency-Key` header, or `None` if there is no such header.
///
/// A value that opens with a double quote is parsed as a structured field string. Parameters behind it
/// (`"order-17";v=1`) are checked for their form and ignored, as RFC 9651 asks for. Any other value is taken as it
/// stands, if it consists of visible ASCII without comma, semicolon and quote, which would leave open what the key is.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use oneflight::http::{IDEMPOTENCY_KEY, header_key};
///
/// let mut headers = HeaderMap::new();
/// for same in ["\"order-17\"", "order-17", " \"order-17\";attempt=2 "] {
///     headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(same)?);
///     assert_eq!(header_key(&headers)?.unwrap().as_str(), "order-17");
/// }
/// // Two keys in one header are an error.
/// headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("order-17, order-18"));
/// assert!(header_key(&headers).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Repeated`], [`KeyError::Quoting`], [`KeyError::Unquoted`] or [`KeyError::Invalid`].
pub fn header_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, KeyError> {
    KeySource::new().of_headers(headers)
}

/// Returns the key in the top-level member `idempotency_key` of a JSON object.
///
/// Returns `None` if there is no such member, if it is `null`, or if the body is JSON but not an object.
///
/// ```
/// use oneflight::http::{KeyError, json_key};
///
/// assert_eq!(json_key(br#"{"idempotency_key": "order-17"}"#)?.unwrap().as_str(), "order-17");
/// // A member of the same name further down is the application's own.
/// assert!(json_key(br#"{"nested": {"idempotency_key": "order-17"}}"#)?.is_none());
/// assert!(matches!(json_key(br#"{"idempotency_key": 17}"#), Err(KeyError::NotAString { .. })));
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Body`] if the body is not JSON, [`KeyError::NotAString`], [`KeyError::Repeated`] or
/// [`KeyError::Invalid`].
pub fn json_key(body: &[u8]) -> Result<Option<IdempotencyKey>, KeyError> {
    let found = KeySource::new().find_in_json(Cow::Borrowed(KEY_FIELD), body)?;
    Ok(found.map(|found| found.key))
}

/// Returns the key in the field `idempotency_key` of a URL-encoded form, or `None` if there is no such field.
///
/// ```
/// use oneflight::http::{KeyError, form_key};
///
/// let key = form_key(b"item=green+tea&idempotency_key=order-17")?;
/// assert_eq!(key.unwrap().as_str(), "order-17");
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Repeated`], or [`KeyError::Invalid`]: an empty field is an invalid key.
pub fn form_key(body: &[u8]) -> Result<Option<IdempotencyKey>, KeyError> {
    let found = KeySource::new().find_in_form(Cow::Borrowed(KEY_FIELD), body)?;
    Ok(found.map(|found| found.key))
}
