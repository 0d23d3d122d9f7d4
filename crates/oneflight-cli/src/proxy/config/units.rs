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
            _ => humantime::parse_duration(text).map_err(|error| format!("{text:?} is no time ({error})")),
        }
    }
}

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

impl Text for Principal {
    const EXPECTED: &'static str = "\"header NAME\" or \"cookie NAME\"";

    fn read(text: &str) -> Result<Self, String> {
        let named = text.split_once(' ').map(|(place, name)| (place, name.trim()));
        match named {
            Some(("header", name)) => HeaderName::read(name).map(Self::Header),
            Some(("cookie", name)) if !name.is_empty() && !name.contains([';', '=', ' ', ',']) => {
                Ok(Self::Cookie(name.to_owned()))
            }
            _ => Err(format!("{text:?} does not say who a client is")),
        }
    }
}
