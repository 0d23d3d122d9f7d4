//! Where the key of a request is looked for, and what is accepted as one.
//!
//! Each place is read by itself. Only then are the keys compared: the order of the places decides nothing.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write;
use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::{HeaderWords, KeyError, KeyPlace};
use super::names::IDEMPOTENCY_KEY;
use crate::http::body::{BodyFormat, form, is_encoded, json, multipart};
use crate::identity::{IdempotencyKey, IdentityError};

/// Where a layer looks for the key of a request, and what it accepts as one.
///
/// Unless more is set, this is the header `Idempotency-Key`, quoted or bare, with any
/// [valid](IdempotencyKey::new) key.
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
/// use oneflight::http::{KeyError, KeySource};
///
/// let source = KeySource::new()
///     .alias(HeaderName::from_static("x-idempotency-key"))
///     .field("order_key")
///     .max_bytes(36);
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-idempotency-key", HeaderValue::from_static("order-17"));
/// assert_eq!(source.of_headers(&headers)?.unwrap().as_str(), "order-17");
///
/// // Two places may carry the same key, but no two keys.
/// headers.insert("idempotency-key", HeaderValue::from_static("\"order-18\""));
/// assert!(matches!(source.of_headers(&headers), Err(KeyError::Differ { .. })));
///
/// // A body need only be read if it can carry the key.
/// assert!(!source.is_in_body_of(&headers));
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// assert!(source.is_in_body_of(&headers));
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct KeySource {
    header: HeaderName,
    aliases: Vec<HeaderName>,
    field: Option<Cow<'static, str>>,
    quoting: Quoting,
    max_bytes: usize,
    alphabet: Option<fn(char) -> bool>,
}

#[derive(Clone, Copy, Debug)]
enum Quoting {
    Optional,
    Required,
}

impl Default for KeySource {
    fn default() -> Self {
        Self::new()
    }
}

impl KeySource {
    /// Looks into the header `Idempotency-Key`.
    pub fn new() -> Self {
        Self {
            header: IDEMPOTENCY_KEY,
            aliases: Vec::new(),
            field: None,
            quoting: Quoting::Optional,
            max_bytes: IdempotencyKey::MAX_BYTES,
            alphabet: None,
        }
    }

    /// Looks into a further header, such as `X-Idempotency-Key`.
    ///
    /// Headers that agree are one key. Headers that differ are [`KeyError::Differ`].
    pub fn alias(mut self, name: HeaderName) -> Self {
        if self.names().all(|known| *known != name) {
            self.aliases.push(name);
        }
        self
    }

    /// Looks also into a field of the body: of a URL-encoded or multipart form, or of a JSON object.
    ///
    /// Only one field is looked for; the last one that was set.
    pub fn field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(name.into());
        self
    }

    /// Accepts nothing in headers but the quoted string of the draft.
    ///
    /// Many clients send the key without quotes. They get a [`KeyError::Bare`].
    pub fn strict(mut self) -> Self {
        self.quoting = Quoting::Required;
        self
    }

    /// Sets the maximum length of a key, in bytes.
    ///
    /// It is at least 1 and at most [`IdempotencyKey::MAX_BYTES`], which is the default; other values are taken for the
    /// nearest of these.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes.clamp(1, IdempotencyKey::MAX_BYTES);
        self
    }

    /// Limits the characters of a key. It cannot allow what is not [valid](IdempotencyKey::new).
    ///
    /// ```
    /// use oneflight::http::KeySource;
    ///
    /// let hexadecimal = KeySource::new().alphabet(|character| character.is_ascii_hexdigit() || character == '-');
    /// # let _ = hexadecimal;
    /// ```
    pub fn alphabet(mut self, accepts: fn(char) -> bool) -> Self {
        self.alphabet = Some(accepts);
        self
    }

    /// Returns the names of the headers that are looked into.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        iter::once(&self.header).chain(&self.aliases)
    }

    /// Returns the name of the body field that is looked for, if one is.
    #[must_use]
    pub fn field_name(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Returns the maximum length of a key, in bytes.
    pub(in crate::http) fn longest(&self) -> usize {
        self.max_bytes
    }

    /// Whether a key in a header has to be quoted.
    pub(in crate::http) fn is_strict(&self) -> bool {
        matches!(self.quoting, Quoting::Required)
    }

    /// Returns the characters that a key may have.
    pub(in crate::http) fn characters(&self) -> impl Iterator<Item = char> {
        let accepts = self.alphabet.unwrap_or(|_| true);
        (' '..='~').filter(move |character| accepts(*character))
    }

    /// Whether the key of a request may stand in its body, and cannot be seen there since that is encoded.
    pub(in crate::http) fn is_out_of_sight(&self, headers: &HeaderMap) -> bool {
        self.field.is_some() && BodyFormat::of(headers).is_some() && is_encoded(headers)
    }

    /// Returns the key in the headers, or `None` if they carry none.
    ///
    /// # Errors
    ///
    /// A header that carries something other than exactly one acceptable key, and [`KeyError::Differ`]. An alias is
    /// judged like the header itself.
    pub fn of_headers(&self, headers: &HeaderMap) -> Result<Option<IdempotencyKey>, KeyError> {
        Ok(self.find_in_headers(headers)?.map(|found| found.key))
    }

    /// Whether the body of a request with these headers can carry the key.
    ///
    /// It can if a [field](Self::field) was named and the body is a [format](BodyFormat) with fields that is not
    /// compressed. The key of any other request is [in its headers](Self::of_headers), or there is none.
    #[must_use]
    pub fn is_in_body_of(&self, headers: &HeaderMap) -> bool {
        self.field_in_body(headers).is_some()
    }

    /// Returns the key of a request whose body was read, or `None` if it carries none.
    ///
    /// All places are looked at. The body is read as a whole: limit its size before.
    ///
    /// # Errors
    ///
    /// The errors of [`of_headers`](Self::of_headers); a field that carries something other than exactly one acceptable
    /// key; and [`KeyError::Body`] if a field was named and the body is not what its `Content-Type` says.
    ///
    /// # Cancel safety
    ///
    /// It never waits.
    pub async fn find(&self, headers: &HeaderMap, body: &Bytes) -> Result<Option<IdempotencyKey>, KeyError> {
        self.search(headers, body, || body.clone())
    }

    /// Returns the error for a request without a key that must carry one.
    #[must_use]
    pub fn missing(&self) -> KeyError {
        let mut sought = String::new();
        for (at, name) in self.names().enumerate() {
            let is_last = at == self.aliases.len() && self.field.is_none();
            let joint = match at {
                0 => "",
                _ if is_last => " or ",
                _ => ", ",
            };
            // Writing to a `String` does not fail.
            let _ = write!(sought, "{joint}the {} header", HeaderWords(name));
        }
        if let Some(field) = &self.field {
            let _ = write!(sought, ", or in the field {field} of a JSON or form body");
        }
        KeyError::Missing { sought }
    }

    /// What `find` does, over a body that is shared only if it has to be.
    pub(in crate::http) fn search(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        share: impl FnOnce() -> Bytes,
    ) -> Result<Option<IdempotencyKey>, KeyError> {
        let in_headers = self.find_in_headers(headers)?;
        let in_body = match self.field_in_body(headers) {
            None => None,
            Some((BodyFormat::Json, _)) if body.is_empty() => None,
            Some((BodyFormat::Json, field)) => self.find_in_json(field, body)?,
            Some((BodyFormat::Form, field)) => self.find_in_form(field, body)?,
            Some((BodyFormat::Multipart, field)) => self.find_in_multipart(field, headers, share())?,
        };
        Ok(agreed(in_headers, in_body)?.map(|found| found.key))
    }

    fn field_in_body(&self, headers: &HeaderMap) -> Option<(BodyFormat, Cow<'static, str>)> {
        let field = self.field.as_ref()?;
        let format = BodyFormat::of(headers)?;
        (!is_encoded(headers)).then(|| (format, field.clone()))
    }

    fn find_in_headers(&self, headers: &HeaderMap) -> Result<Option<Found>, KeyError> {
        let mut found = None;
        for name in self.names() {
            found = agreed(found, self.find_in_header(name, headers)?)?;
        }
        Ok(found)
    }

    fn find_in_header(&self, name: &HeaderName, headers: &HeaderMap) -> Result<Option<Found>, KeyError> {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let place = KeyPlace::Header(name.clone());
        if values.next().is_some() {
            return Err(KeyError::Repeated { place });
        }
        let text = self.header_text(value, &place)?;
        self.accept(place, &text).map(Some)
    }

    fn header_text<'a>(&self, value: &'a HeaderValue, place: &KeyPlace) -> Result<Cow<'a, str>, KeyError> {
        let bytes = value.as_bytes().trim_ascii();
        if bytes.first() == Some(&b'"') {
            let item: sfv::Item = sfv::Parser::new(bytes).parse().map_err(|error| KeyError::Quoting {
                place: place.clone(),
                source: Arc::new(error),
            })?;
            // What opens with a quote and parses is a string; the other arm is for the compiler.
            return match item.bare_item {
                sfv::BareItem::String(text) => Ok(Cow::Owned(text.as_str().to_owned())),
                _ => Err(KeyError::Unquoted { place: place.clone() }),
            };
        }
        if let Quoting::Required = self.quoting {
            return Err(KeyError::Bare { place: place.clone() });
        }
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'"');
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.iter().all(plain) => Ok(Cow::Borrowed(text)),
            _ => Err(KeyError::Unquoted { place: place.clone() }),
        }
    }

    pub(super) fn find_in_json(&self, field: Cow<'static, str>, body: &[u8]) -> Result<Option<Found>, KeyError> {
        let place = || KeyPlace::Json(field.clone());
        let broken = |source: Box<dyn Error + Send + Sync>| KeyError::Body {
            format: BodyFormat::Json,
            source: source.into(),
        };
        let members = json::Json::read(body)
            .map_err(broken)?
            .members()
            .map_err(|error| broken(error.into()))?;
        let mut values = members.into_iter().flatten().filter(|member| member.name == field);
        let Some(member) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(KeyError::Repeated { place: place() });
        }
        if member.value == "null" {
            return Ok(None);
        }
        if !member.value.starts_with('"') {
            return Err(KeyError::NotAString { place: place() });
        }
        let text = json::text(member.value).map_err(|error| broken(error.into()))?;
        self.accept(place(), &text).map(Some)
    }

    pub(super) fn find_in_form(&self, field: Cow<'static, str>, body: &[u8]) -> Result<Option<Found>, KeyError> {
        let place = KeyPlace::Form(field.clone());
        let mut values = form::fields(body).filter(|known| known.name == field);
        let Some(found) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(KeyError::Repeated { place });
        }
        self.accept(place, &found.value).map(Some)
    }

    fn find_in_multipart(
        &self,
        field: Cow<'static, str>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Option<Found>, KeyError> {
        let place = KeyPlace::Multipart(field.clone());
        let mut values = Vec::new();
        let see = |part: multipart::Part| {
            if part.name.as_deref() == Some(&*field) {
                values.push(part);
            }
        };
        multipart::each_part(headers, body, see).map_err(|error| KeyError::Body {
            format: BodyFormat::Multipart,
            source: Arc::new(error),
        })?;
        match &values[..] {
            [] => Ok(None),
            [part] if part.is_file => Err(KeyError::NotAString { place }),
            [part] => self.accept(place, &String::from_utf8_lossy(&part.bytes)).map(Some),
            _ => Err(KeyError::Repeated { place }),
        }
    }

    fn accept(&self, place: KeyPlace, text: &str) -> Result<Found, KeyError> {
        if text.len() > self.max_bytes {
            let source = IdentityError::KeyTooLong {
                bytes: text.len(),
                limit: self.max_bytes,
            };
            return Err(KeyError::Invalid { place, source });
        }
        let key = match IdempotencyKey::new(text) {
            Ok(key) => key,
            Err(source) => return Err(KeyError::Invalid { place, source }),
        };
        if let Some(accepts) = self.alphabet
            && let Some(position) = text.chars().position(|character| !accepts(character))
        {
            return Err(KeyError::Alphabet { place, position });
        }
        Ok(Found { place, key })
    }
}

/// A key, and where it stands.
pub(super) struct Found {
    place: KeyPlace,
    pub(super) key: IdempotencyKey,
}

/// Returns the one that there is, or the first of two that are the same key.
fn agreed(one: Option<Found>, other: Option<Found>) -> Result<Option<Found>, KeyError> {
    match (one, other) {
        (Some(one), Some(other)) if one.key != other.key => Err(KeyError::Differ {
            one: one.place,
            other: other.place,
        }),
        (one, other) => Ok(one.or(other)),
    }
}
