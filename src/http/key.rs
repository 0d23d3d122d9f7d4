//! Finding the idempotency key of a request, in its header or in its body.
//!
//! The header is the one of `draft-ietf-httpapi-idempotency-key-header`: a structured field (RFC 8941, RFC 9651) whose
//! item is a string, `Idempotency-Key: "8e03978e-40d5"`. Most clients in use send the same without quotes. Those are
//! understood too, if the unquoted value can be read in one way only. Both spellings are the same key.
//!
//! A place that carries no key is not an error here. A place that carries something other than exactly one valid key
//! always is one: a key that is guessed, cut or picked from several lets two operations pass for one.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::body::BodyFormat;
use crate::identity::{IdempotencyKey, IdentityError};

/// The name of the `Idempotency-Key` header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The name of the body field that may carry the key instead: `idempotency_key`.
pub const KEY_FIELD: &str = "idempotency_key";

/// Where in a request a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyPlace {
    /// The `Idempotency-Key` header.
    Header,
    /// The member `idempotency_key` of a JSON object.
    Json,
    /// The field `idempotency_key` of a form.
    Form,
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the Idempotency-Key header",
            Self::Json => "the member idempotency_key of the JSON body",
            Self::Form => "the field idempotency_key of the form",
        })
    }
}

/// Why a request has no usable idempotency key.
///
/// Each of these is the client's to mend: as a [`Problem`](super::Problem) they are answers with status 400. The
/// messages never repeat the key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KeyError {
    /// The request carries no key, and one is required.
    Missing,
    /// The place carries more than one value.
    Repeated {
        /// The place of the values.
        place: KeyPlace,
    },
    /// The header opens with a quote, but is not a structured field string.
    Quoting {
        /// The error of the parser of structured fields.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The header is not quoted and holds a character that cannot stand outside quotes: white space, a comma, a
    /// semicolon, a quote, a control character or something that is not ASCII.
    Unquoted,
    /// The JSON member exists, but it is not a string.
    NotAString,
    /// The key is not valid.
    Invalid {
        /// The place of the key.
        place: KeyPlace,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The header and the body carry two different keys.
    Differ {
        /// The place in the body of the other key.
        body: KeyPlace,
    },
    /// The body says that it is JSON, and cannot be parsed as such.
    Body {
        /// The error of the parser: what it expected and where, without the content.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "the request carries no idempotency key: send one in the Idempotency-Key header, or in the field \
                 idempotency_key of a JSON or form body. Make a new key (a UUID will do) for each new operation, and \
                 repeat the same key with each retry of it",
            ),
            Self::Repeated { place } => write!(f, "{place} is given more than once: send exactly one idempotency key"),
            Self::Quoting { source } => write!(
                f,
                "the Idempotency-Key header is not a quoted string as structured fields (RFC 8941) have it: {source}. \
                 Send one value, such as \"8e03978e-40d5\""
            ),
            Self::Unquoted => f.write_str(
                "the Idempotency-Key header has no quotes around it, and holds a character that needs them (white \
                 space, comma, semicolon, quote) or that no key may have: send one value in double quotes, such as \
                 \"8e03978e-40d5\"",
            ),
            Self::NotAString => write!(f, "{} is not a string: send the key as a JSON string", KeyPlace::Json),
            Self::Invalid { place, source } => write!(f, "{place} is not valid: {source}"),
            Self::Differ { body } => write!(
                f,
                "the Idempotency-Key header and {body} are two different keys: send one of them, or the same key in both"
            ),
            Self::Body { source } => write!(
                f,
                "the body is not valid JSON, so that no idempotency key can be looked for in it: {source}. Send valid \
                 JSON, or say in Content-Type what it is"
            ),
        }
    }
}

impl Error for KeyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Quoting { source } | Self::Body { source } => Some(source.as_ref()),
            Self::Invalid { source, .. } => Some(source),
            _ => None,
        }
    }
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
/// assert!(matches!(require_key(&headers, b"{}"), Err(KeyError::Missing)));
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Missing`] if there is no key, and every error of [`find_key`].
pub fn require_key(headers: &HeaderMap, body: &[u8]) -> Result<IdempotencyKey, KeyError> {
    find_key(headers, body)?.ok_or(KeyError::Missing)
}

/// Returns the idempotency key of a request, from its header or from the body that its `Content-Type` describes.
///
/// Both places are looked at. The same key may stand in both. Two different keys are an error, since to prefer either
/// would be a guess. A body in another format (see [`BodyFormat::of`]), or an empty one, carries no key. The body is
/// read as a whole: limit its size before.
///
/// The key is the same wherever it stands, but the body is not. So leave the key out of a
/// [fingerprint](super#fingerprints).
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
/// Every error of [`header_key`], [`json_key`] and [`form_key`], and [`KeyError::Differ`].
pub fn find_key(headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, KeyError> {
    let in_header = header_key(headers)?;
    let (place, in_body) = match BodyFormat::of(headers) {
        Some(BodyFormat::Json) if !body.is_empty() => (KeyPlace::Json, json_key(body)?),
        Some(BodyFormat::Form) => (KeyPlace::Form, form_key(body)?),
        _ => return Ok(in_header),
    };
    match (in_header, in_body) {
        (Some(header), Some(body)) if header.as_str() != body.as_str() => Err(KeyError::Differ { body: place }),
        (header, body) => Ok(header.or(body)),
    }
}

/// Returns the key in the `Idempotency-Key` header, or `None` if there is no such header.
///
/// A value that opens with a double quote is parsed as a structured field string. Parameters behind it
/// (`"order-17";v=1`) are checked for their form and ignored, as RFC 8941 asks for. Any other value is taken as it
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
    let place = KeyPlace::Header;
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(KeyError::Repeated { place });
    }
    valid(place, &header_text(value)?).map(Some)
}

fn header_text(value: &HeaderValue) -> Result<Cow<'_, str>, KeyError> {
    let bytes = value.as_bytes().trim_ascii();
    if bytes.first() == Some(&b'"') {
        let item: sfv::Item = sfv::Parser::new(bytes).parse().map_err(|error| KeyError::Quoting {
            source: Arc::new(error),
        })?;
        // What opens with a quote and parses is a string; the other arm is for the compiler.
        return match item.bare_item {
            sfv::BareItem::String(text) => Ok(Cow::Owned(text.as_str().to_owned())),
            _ => Err(KeyError::Unquoted),
        };
    }
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'"');
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(plain) => Ok(Cow::Borrowed(text)),
        _ => Err(KeyError::Unquoted),
    }
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
/// assert!(matches!(json_key(br#"{"idempotency_key": 17}"#), Err(KeyError::NotAString)));
/// # Ok::<(), KeyError>(())
/// ```
///
/// # Errors
///
/// [`KeyError::Body`] if the body is not JSON, [`KeyError::NotAString`], [`KeyError::Repeated`] or
/// [`KeyError::Invalid`].
pub fn json_key(body: &[u8]) -> Result<Option<IdempotencyKey>, KeyError> {
    let place = KeyPlace::Json;
    fn broken(error: impl Error + Send + Sync + 'static) -> KeyError {
        KeyError::Body {
            source: Arc::new(error),
        }
    }
    // The parser looks into texts that it skips for quotes only, and JSON is UTF-8 throughout.
    let body = std::str::from_utf8(body).map_err(broken)?;
    let mut json = serde_json::Deserializer::from_str(body);
    let found = json.deserialize_any(FindMember).map_err(broken)?;
    json.end().map_err(broken)?;
    match found {
        Found::Nothing => Ok(None),
        Found::Text(text) => valid(place, &text).map(Some),
        Found::NotAString => Err(KeyError::NotAString),
        Found::Repeated => Err(KeyError::Repeated { place }),
    }
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
    let place = KeyPlace::Form;
    let mut values = form_urlencoded::parse(body).filter(|(name, _)| name == KEY_FIELD);
    let Some((_, text)) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(KeyError::Repeated { place });
    }
    valid(place, &text).map(Some)
}

fn valid(place: KeyPlace, text: &str) -> Result<IdempotencyKey, KeyError> {
    IdempotencyKey::new(text).map_err(|source| KeyError::Invalid { place, source })
}

/// What stands in the wanted member of a JSON object.
enum Found {
    Nothing,
    Text(String),
    NotAString,
    Repeated,
}

/// Reads a whole JSON value, keeping only the wanted member of the outermost object. Unlike a derived struct or a
/// `Value`, it sees a member that occurs twice, of which other parsers take the first or the last.
struct FindMember;

impl<'de> Visitor<'de> for FindMember {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name != KEY_FIELD {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<serde_json::Value>()?;
            found = Some(match (found, value) {
                (Some(_), _) => Found::Repeated,
                (None, serde_json::Value::Null) => Found::Nothing,
                (None, serde_json::Value::String(text)) => Found::Text(text),
                (None, _) => Found::NotAString,
            });
        }
        Ok(found.unwrap_or(Found::Nothing))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Nothing)
    }
}
