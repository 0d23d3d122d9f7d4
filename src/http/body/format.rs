//! The format of a request's body, as far as its fields can be told apart.
//!
//! This looks at the `Content-Type` header only and never at the body: guessing a format from content is how one
//! request comes to be read in two ways.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// A body format whose fields are known here: one of them can carry an idempotency key.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
/// use oneflight::http::BodyFormat;
///
/// let mut headers = HeaderMap::new();
/// assert_eq!(BodyFormat::of(&headers), None);
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
/// assert_eq!(BodyFormat::of(&headers), Some(BodyFormat::Json));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyFormat {
    /// `application/json`, or any `application/…+json`.
    Json,
    /// `application/x-www-form-urlencoded`, which a plain HTML form sends.
    Form,
    /// `multipart/form-data` (RFC 7578), which an HTML form with files sends.
    Multipart,
}

impl BodyFormat {
    /// Returns the format that the `Content-Type` header names, or `None` if the header is missing, repeated, or names
    /// another format.
    ///
    /// Parameters such as `charset` are ignored, and so is upper and lower case.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let essence = value.to_str().ok()?.split(';').next()?.trim();
        if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Some(Self::Form);
        }
        if essence.eq_ignore_ascii_case("multipart/form-data") {
            return Some(Self::Multipart);
        }
        let (kind, subtype) = essence.split_once('/')?;
        if !kind.eq_ignore_ascii_case("application") {
            return None;
        }
        let is_json = subtype.eq_ignore_ascii_case("json")
            || subtype
                .rsplit_once('+')
                .is_some_and(|(name, suffix)| !name.is_empty() && suffix.eq_ignore_ascii_case("json"));
        is_json.then_some(Self::Json)
    }
}

/// Whether the body is encoded (RFC 9110, section 8.4), so that it cannot be read as what its `Content-Type` says.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    encodings(headers).next().is_some()
}

/// The codings that were applied, in order, but for `identity`.
pub(crate) fn encodings(headers: &HeaderMap) -> impl Iterator<Item = Vec<u8>> {
    let values = headers.get_all(CONTENT_ENCODING).into_iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity")
}
