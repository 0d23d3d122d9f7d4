//! The names under which the page may be reached: a name of another site that resolves to this address is none of them.

use std::net::IpAddr;

use axum::http::uri::Authority;

/// The names under which the page may be reached.
pub(super) struct Hosts {
    names: Vec<String>,
    address: IpAddr,
}

impl Hosts {
    pub(super) fn new(names: &[String], address: IpAddr) -> Result<Self, String> {
        let valid = |name: &String| match name.parse::<Authority>() {
            Ok(authority) if authority.port().is_none() && !name.contains('@') => Ok(name.to_ascii_lowercase()),
            _ => Err(format!(
                "{name:?} is no name of a host; give it alone, as in ops.example.com"
            )),
        };
        let names = names.iter().map(valid).collect::<Result<_, _>>()?;
        Ok(Self { names, address })
    }

    /// Returns whether the page is at home under this name. Any port will do: one may be forwarded.
    pub(super) fn has(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => {
                address.is_loopback() || (address == self.address && !address.is_unspecified()) || self.is_named(&host)
            }
            Err(_) => host == "localhost" || self.is_named(&host),
        }
    }

    fn is_named(&self, host: &str) -> bool {
        self.names.iter().any(|name| name == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_at_home_under_names_of_this_machine_and_those_that_were_given() {
        let hosts = Hosts::new(&["Ops.example.com".to_owned()], IpAddr::from([10, 0, 0, 7]))
            .unwrap_or_else(|what| panic!("{what}"));
        let has = |text: &str| text.parse().is_ok_and(|authority| hosts.has(&authority));
        for home in [
            "localhost",
            "LOCALHOST:9",
            "127.0.0.1:7878",
            "127.8.8.8",
            "[::1]:7878",
            "10.0.0.7:7878",
            "ops.example.com",
            "OPS.example.com:443",
        ] {
            assert!(has(home), "{home}");
        }
        for other in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.8",
            "user@localhost",
            "0.0.0.0:7878",
            "ops.example.com.evil.example",
        ] {
            assert!(!has(other), "{other}");
        }
        for invalid in ["a b", "ops.example.com:443", "me@ops", "https://ops.example.com"] {
            assert!(
                Hosts::new(&[invalid.to_owned()], IpAddr::from([127, 0, 0, 1])).is_err(),
                "{invalid}"
            );
        }
    }
}
