//! Where a backend is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

/// The address of a backend: `http://host:port`, `https://host:port`, or `unix:/path/of/a/socket`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Address {
    Tcp { host: String, port: u16, tls: Tls },
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Tls {
    Plain,
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "it cannot be configured without the feature")
    )]
    Encrypted,
}

impl Address {
    /// Returns what stands in `Host` where the client sent none.
    pub(in super::super) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port, tls } => match (tls, port) {
                (Tls::Plain, 80) | (Tls::Encrypted, 443) => host.clone(),
                _ => format!("{host}:{port}"),
            },
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "it is http://host:port, https://host:port or unix:/path/of/a/socket";
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => Err(format!("{text:?} is no backend: the path of a socket begins with /")),
            };
        }
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{text:?} is no backend, {error}: {FORMS}"))?;
        let (Some(scheme), Some(host)) = (uri.scheme(), uri.host()) else {
            return Err(format!("{text:?} is no backend: {FORMS}"));
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err(format!(
                "{text:?} has a path: requests are forwarded with the path that they came with, so leave it away"
            ));
        }
        let tls = match scheme {
            scheme if *scheme == Scheme::HTTP => Tls::Plain,
            #[cfg(feature = "tls")]
            scheme if *scheme == Scheme::HTTPS => Tls::Encrypted,
            scheme if *scheme == Scheme::HTTPS => {
                return Err(format!("{text:?}: this program was built without the feature `tls`"));
            }
            _ => return Err(format!("{text:?} is no backend: {FORMS}")),
        };
        if host.is_empty() {
            return Err(format!("{text:?} names no host: {FORMS}"));
        }
        let is_with_port = uri.authority().is_some_and(|it| it.as_str().len() > host.len());
        if is_with_port && uri.port_u16().is_none() {
            return Err(format!(
                "{text:?} has no port that there is, from 1 to 65535, or more than host and port: {FORMS}"
            ));
        }
        let port = uri.port_u16().unwrap_or(match tls {
            Tls::Plain => 80,
            Tls::Encrypted => 443,
        });
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => match tls {
                Tls::Plain => write!(f, "http://{host}:{port}"),
                Tls::Encrypted => write!(f, "https://{host}:{port}"),
            },
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
