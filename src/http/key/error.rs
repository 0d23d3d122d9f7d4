//! Why a request has no usable idempotency key, and where the trouble stands.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;

use crate::http::body::BodyFormat;
use crate::identity::IdentityError;

/// Where in a request a key stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyPlace {
    /// The header of this name.
    Header(HeaderName),
    /// The member of this name of a JSON object.
    Json(Cow<'static, str>),
    /// The field of this name of a URL-encoded form.
    Form(Cow<'static, str>),
    /// The field of this name of a multipart form.
    Multipart(Cow<'static, str>),
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the {} header", HeaderWords(name)),
            Self::Json(name) => write!(f, "the member {name} of the JSON body"),
            Self::Form(name) => write!(f, "the field {name} of the form"),
            Self::Multipart(name) => write!(f, "the field {name} of the multipart form"),
        }
    }
}

/// Shows the name of a header as people write it.
pub(super) struct HeaderWords<'a>(pub(super) &'a HeaderName);

impl fmt::Display for HeaderWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.as_str().split('-').enumerate() {
            let (first, rest) = word.split_at(word.len().min(1));
            let dash = if at > 0 { "-" } else { "" };
            write!(f, "{dash}{}{rest}", first.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// Why a request has no usable idempotency key.
///
/// Each of these is the client's to mend: as a [`Problem`](crate::http::Problem) they are answers with status 400. The
/// messages never repeat the key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KeyError {
    /// The request carries no key, and one is required.
    Missing {
        /// The places that were looked at, as words.
        sought: String,
    },
    /// The place carries more than one value.
    Repeated {
        /// The place of the values.
        place: KeyPlace,
    },
    /// The header opens with a quote, but is not a structured field string.
    Quoting {
        /// The place of the key.
        place: KeyPlace,
        /// The error of the parser of structured fields.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The header is not quoted and holds a character that cannot stand outside quotes: white space, a comma, a
    /// semicolon, a quote, a control character or something that is not ASCII.
    Unquoted {
        /// The place of the key.
        place: KeyPlace,
    },
    /// The header is not quoted, and only a quoted key is accepted ([`KeySource::strict`](crate::http::KeySource::strict)).
    Bare {
        /// The place of the key.
        place: KeyPlace,
    },
    /// The place is there, but it holds no string: a JSON member is another value, a part of a multipart form a file.
    NotAString {
        /// The place of the key.
        place: KeyPlace,
    },
    /// The key is not valid.
    Invalid {
        /// The place of the key.
        place: KeyPlace,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The key holds a character that this service does not accept
    /// ([`KeySource::alphabet`](crate::http::KeySource::alphabet)).
    Alphabet {
        /// The place of the key.
        place: KeyPlace,
        /// The position of the first such character, counted from 0.
        position: usize,
    },
    /// Two places carry two different keys.
    Differ {
        /// The place of the one key.
        one: KeyPlace,
        /// The place of the other key.
        other: KeyPlace,
    },
    /// The body says what it is, and cannot be read as such.
    Body {
        /// What it says it is.
        format: BodyFormat,
        /// The error of the parser: what it expected and where, without the content.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { sought } => write!(
                f,
                "the request carries no idempotency key: send one in {sought}. Make a new key (a UUID will do) for each \
                 new operation, and repeat the same key with each retry of it"
            ),
            Self::Repeated { place } => write!(f, "{place} is given more than once: send exactly one idempotency key"),
            Self::Quoting { place, source } => write!(
                f,
                "{place} is not a quoted string as structured fields (RFC 9651) have it: {source}. Send one value, such \
                 as \"8e03978e-40d5\""
            ),
            Self::Unquoted { place } => write!(
                f,
                "{place} has no quotes around it, and holds a character that needs them (white space, comma, semicolon, \
                 quote) or that no key may have: send one value in double quotes, such as \"8e03978e-40d5\""
            ),
            Self::Bare { place } => write!(
                f,
                "{place} has no quotes around it: send one value in double quotes, such as \"8e03978e-40d5\""
            ),
            Self::NotAString {
                place: place @ KeyPlace::Json(_),
            } => write!(f, "{place} is not a string: send the key as a JSON string"),
            Self::NotAString { place } => write!(f, "{place} is not a plain field: send the key as its text"),
            Self::Invalid { place, source } => write!(f, "{place} is not valid: {source}"),
            Self::Alphabet { place, position } => write!(
                f,
                "{place} is not valid: this service does not accept its character at position {position}"
            ),
            Self::Differ { one, other } => write!(
                f,
                "{one} and {other} are two different keys: send one of them, or the same key in both"
            ),
            Self::Body { format, source } => {
                let format = match format {
                    BodyFormat::Json => "JSON",
                    BodyFormat::Form => "a form",
                    BodyFormat::Multipart => "a multipart form",
                };
                write!(
                    f,
                    "the body is not valid as {format}, so that no idempotency key can be looked for in it: {source}. \
                     Send it whole and valid, or say in Content-Type what it is"
                )
            }
        }
    }
}

impl Error for KeyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Quoting { source, .. } | Self::Body { source, .. } => Some(source.as_ref()),
            Self::Invalid { source, .. } => Some(source),
            _ => None,
        }
    }
}
