//! The values of the configuration: each is read from text, and an error says what is allowed.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Method};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor, value::SeqAccessDeserializer};

/// A value that is written as text.
pub(super) trait Text: Sized {
    /// What is allowed, as the object of "expected".
    const EXPECTED: &'static str;

    fn read(text: &str) -> Result<Self, String>;
}

/// A value that is read from text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read<T>(pub(super) T);

impl<'de, T: Text> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);

        impl<T: Text> Visitor<'_> for Reads<T> {
            type Value = Read<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Read<T>, E> {
                T::read(text)
                    .map(Read)
                    .map_err(|why| E::custom(format!("{why}: expected {}", T::EXPECTED)))
            }
        }

        from.deserialize_str(Reads(PhantomData))
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed<T>(pub(super) Vec<T>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Text> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);

        impl<'de, T: Text> Visitor<'de> for Reads<T> {
            type Value = Listed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of such", T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Listed<T>, E> {
                let one = T::read(text).map_err(|why| E::custom(format!("{why}: expected {}", T::EXPECTED)))?;
                Ok(Listed(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Listed<T>, A::Error> {
                let all = Vec::<Read<T>>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(Listed(all.into_iter().map(|one| one.0).collect()))
            }
        }

        from.deserialize_any(Reads(PhantomData))
    }
}

impl Text for Duration {
    const EXPECTED: &'static str = "a time with its unit, such as \"30s\", \"500ms\" or \"24h\"";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::ZERO),
            _ => match humantime::parse_duration(text) {
                Ok(time) if time > LONGEST => Err(format!("{text:?} is longer than ten years")),
                Ok(time) => Ok(time),
                Err(error) => Err(format!("{text:?} is no time ({error})")),
            },
        }
    }
}

/// What is longer is a mistake.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Size(pub(in super::super) usize);

impl Text for Size {
    const EXPECTED: &'static str = "a size with its unit, such as \"512 B\", \"256 KiB\" or \"1 MiB\"";

    fn read(text: &str) -> Result<Self, String> {
        let digits = text
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: usize = match unit.trim() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => return Err(format!("{text:?} has no unit")),
            _ => return Err(format!("{text:?} is no size")),
        };
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no size"))
    }
}

impl Text for HeaderName {
    const EXPECTED: &'static str = "the name of a header, such as \"Idempotency-Key\"";

    fn read(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|_| format!("{text:?} is no header"))
    }
}

impl Text for Method {
    const EXPECTED: &'static str = "a method in capitals, such as \"POST\"";

    fn read(text: &str) -> Result<Self, String> {
        match Self::from_str(text) {
            Ok(method) if text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => Ok(method),
            _ => Err(format!("{text:?} is no method")),
        }
    }
}

impl Text for String {
    const EXPECTED: &'static str = "a text that is not empty";

    fn read(text: &str) -> Result<Self, String> {
        match text.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// What the proxy calls itself, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Via(pub(super) Option<String>);

impl Text for Via {
    const EXPECTED: &'static str = "a name such as \"oneflight\" or \"proxy.example:8080\", or \"\" for none";

    fn read(text: &str) -> Result<Self, String> {
        // A pseudonym, or a host with its port (RFC 9110, section 7.6.3).
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(&byte);
        match text.bytes().all(is_of_name) {
            true => Ok(Self(Some(text.to_owned()).filter(|via| !via.is_empty()))),
            false => Err(format!("{text:?} cannot stand in `Via`")),
        }
    }
}

/// The address of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebAddress(pub(super) String);

impl Text for WebAddress {
    const EXPECTED: &'static str = "the address of a page, such as \"https://shop.example/docs/idempotency\"";

    fn read(text: &str) -> Result<Self, String> {
        let is_safe = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&byte));
        let uri = text.parse::<http::Uri>().ok();
        let is_of_web =
            uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        match is_safe && is_of_web {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no address of a page")),
        }
    }
}

/// The name of a host, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName(pub(super) String);

impl Text for HostName {
    const EXPECTED: &'static str = "the name of a host alone, such as \"proxy-1.ops.example\"";

    fn read(text: &str) -> Result<Self, String> {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match !text.is_empty() && text.bytes().all(is_of_name) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!("{text:?} is no name of a host")),
        }
    }
}

impl Text for std::net::SocketAddr {
    const EXPECTED: &'static str = "an address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no address to listen at"))
    }
}

/// Some statuses: one of them, or a class such as `5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Statuses {
    first: u16,
    last: u16,
}

impl Statuses {
    pub(in super::super) fn has(self, status: http::StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }
}

impl Text for Statuses {
    const EXPECTED: &'static str = "a status or a class of them, such as \"409\" or \"5xx\"";

    fn read(text: &str) -> Result<Self, String> {
        let (first, last) = match text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()) {
            Some(class @ 2..=5) => (class * 100, class * 100 + 99),
            _ => match text.parse::<u16>() {
                Ok(status @ 200..=599) => (status, status),
                _ => return Err(format!("{text:?} is no status of an answer")),
            },
        };
        Ok(Self { first, last })
    }
}

/// Where it stands who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Principal {
    Header(HeaderName),
    Cookie(String),
}

/// Whether a line is taken off before a scope is looked for (RFC 9110, section 7.6.1).
fn is_of_the_connection(name: &HeaderName) -> bool {
    use http::header::{CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA};

    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA].contains(name) || name == "keep-alive"
}

impl Text for Principal {
    const EXPECTED: &'static str = "\"header NAME\" or \"cookie NAME\"";

    fn read(text: &str) -> Result<Self, String> {
        let named = text.split_once(' ').map(|(place, name)| (place, name.trim()));
        match named {
            Some(("header", name)) => HeaderName::read(name).and_then(|name| match is_of_the_connection(&name) {
                true => Err(format!(
                    "{name} is of the connection, and says nothing of who a client is"
                )),
                false => Ok(Self::Header(name)),
            }),
            Some(("cookie", name)) if !name.is_empty() && !name.contains([';', '=', ' ', ',']) => {
                Ok(Self::Cookie(name.to_owned()))
            }
            _ => Err(format!("{text:?} does not say who a client is")),
        }
    }
}
