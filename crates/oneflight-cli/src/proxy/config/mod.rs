//! The configuration: a file of TOML.
//!
//! What is written is read into types that have its defaults filled in. An error names the line, and what is allowed there.

mod explain;
mod path;
mod place;
mod route;
mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use oneflight::http::layer::Dialect;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

pub(super) use route::{
    Fingerprint, InDoubt, JsonOrder, Key, KeyForm, Recorded, Route, Scopes, ServerActions, StoreAway,
};
use units::{HostName, Listed, Read, Text, Via};
pub(super) use units::{Principal, Size};

use super::upstream::{self, Address, Trust};
use crate::exit::{Code, Failure};

/// All that the file says.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) listen: Vec<SocketAddr>,
    pub(super) upstreams: Vec<Address>,
    pub(super) trust: Trust,
    pub(super) limits: upstream::Limits,
    /// How long the backend may take to say whether it wants a body.
    pub(super) continue_time: Duration,
    pub(super) forward: Forwarding,
    pub(super) store: StoreSettings,
    pub(super) admin: SocketAddr,
    /// The names under which operators reach it, besides addresses.
    pub(super) admin_hosts: Vec<String>,
    pub(super) clients: Clients,
    /// How long requests may take that are under way when the proxy is told to stop.
    pub(super) stop_time: Duration,
    pub(super) routes: Vec<Route>,
}

/// What the proxy adds to requests.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    /// What the proxy calls itself in `Via`, if it does.
    pub(super) via: Option<String>,
    pub(super) forwarded: Forwarded,
}

/// Whether `X-Forwarded-For`, `-Proto` and `-Host` are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Forwarded {
    #[default]
    Untouched,
    Append,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoreSettings {
    pub(super) url: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) purge_every: Duration,
    /// How long it may take to answer.
    pub(super) timeout: Duration,
}

/// What clients may do to the proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    pub(super) header_time: Duration,
    pub(super) header_size: Size,
    pub(super) header_lines: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    listen: Listed<SocketAddr>,
    upstream: WrittenUpstream,
    #[serde(default)]
    forward: WrittenForwarding,
    #[serde(default)]
    store: WrittenStore,
    #[serde(default)]
    admin: WrittenAdmin,
    #[serde(default)]
    clients: WrittenClients,
    stop_time: Option<Read<Duration>>,
    #[serde(default)]
    route: Routes,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table with the address of the service, as in `upstream.url = \"http://127.0.0.1:3000\"`"
)]
struct WrittenUpstream {
    url: Listed<Address>,
    roots: Option<Read<String>>,
    connect_time: Option<Read<Duration>>,
    answer_time: Option<Read<Duration>>,
    idle_time: Option<Read<Duration>>,
    continue_time: Option<Read<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `forward.via = \"oneflight\"`"
)]
struct WrittenForwarding {
    via: Option<Read<Via>>,
    x_forwarded: Forwarded,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `store.url = \"oneflight.db\"`"
)]
struct WrittenStore {
    url: Option<Read<String>>,
    schema: Option<Read<String>>,
    prefix: Option<Read<String>>,
    purge_every: Option<Read<Duration>>,
    timeout: Option<Read<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `admin.listen = \"127.0.0.1:9464\"`"
)]
struct WrittenAdmin {
    listen: Option<Read<SocketAddr>>,
    hosts: Listed<HostName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `clients.header-time = \"30s\"`"
)]
struct WrittenClients {
    header_time: Option<Read<Duration>>,
    header_size: Option<Read<Size>>,
    header_lines: Option<u16>,
}

/// The routes, each with its place.
#[derive(Debug, Default)]
struct Routes(Vec<toml::Spanned<route::Written>>);

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads;

        impl<'de> Visitor<'de> for Reads {
            type Value = Routes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(explain::ROUTES)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Routes, A::Error> {
                let mut routes = Vec::new();
                while let Some(route) = list.next_element()? {
                    routes.push(route);
                }
                Ok(Routes(routes))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Routes, A::Error> {
                Err(A::Error::custom(explain::ROUTES))
            }
        }

        from.deserialize_any(Reads)
    }
}

impl Text for Address {
    const EXPECTED: &'static str = "\"http://host:port\", \"https://host:port\" or \"unix:/path/of/a/socket\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Config {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Code::NoInput, format!("{} cannot be read: {error}", path.display())))?;
        Self::parse(&text).map_err(|why| Failure::new(Code::Config, format!("{}: {why}", path.display())))
    }

    /// Reads the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| explain::told(text, &error))?;
        let or = |time: Option<Read<Duration>>, default: Duration| time.map_or(default, |time| time.0);
        let seconds = Duration::from_secs;
        for (what, is_empty) in [
            ("listen", written.listen.0.is_empty()),
            ("upstream.url", written.upstream.url.0.is_empty()),
        ] {
            if is_empty {
                return Err(format!("`{what}` is an empty list: name one at least"));
            }
        }
        let roots = written.upstream.roots.map(|path| path.0);
        let trust = Trust::read(roots.as_deref().map(Path::new)).map_err(|why| format!("`upstream.roots`: {why}"))?;
        let header_size = written.clients.header_size.map_or(Size(64 * 1024), |size| size.0);
        if header_size.0 < 8 * 1024 {
            return Err("`clients.header-size` is 8 KiB at the least".to_owned());
        }
        let admin = written
            .admin
            .listen
            .map_or(([127, 0, 0, 1], 9464).into(), |listen| listen.0);
        place::check(&written.listen.0, admin, &written.upstream.url.0)?;
        let timeout = or(written.store.timeout, seconds(5));
        if timeout < SHORTEST_TIMEOUT {
            return Err(format!(
                "`store.timeout` is {timeout:?}: it is {SHORTEST_TIMEOUT:?} at the least"
            ));
        }
        if written.clients.header_lines == Some(0) {
            return Err("`clients.header-lines` is 0, and no request would be read: it is 100 unless set".to_owned());
        }
        let mut routes = Vec::with_capacity(written.route.0.len());
        for route in written.route.0 {
            let (line, _) = explain::place(text, route.span().start);
            let route = Route::from(route.into_inner());
            check(&route, &routes).map_err(|why| format!("the route at line {line}: {why}"))?;
            routes.push(route);
        }
        Ok(Self {
            listen: written.listen.0,
            upstreams: written.upstream.url.0,
            trust,
            limits: upstream::Limits {
                connect: or(written.upstream.connect_time, seconds(5)),
                answer: or(written.upstream.answer_time, seconds(60)),
                idle: or(written.upstream.idle_time, seconds(4)),
            },
            continue_time: or(written.upstream.continue_time, seconds(1)),
            forward: Forwarding {
                via: match written.forward.via {
                    None => Some("oneflight".to_owned()),
                    Some(via) => via.0.0,
                },
                forwarded: written.forward.x_forwarded,
            },
            store: StoreSettings {
                url: written.store.url.map(|url| url.0),
                schema: written.store.schema.map(|schema| schema.0),
                prefix: written.store.prefix.map(|prefix| prefix.0),
                purge_every: or(written.store.purge_every, seconds(60)),
                timeout,
            },
            admin,
            admin_hosts: written.admin.hosts.0.into_iter().map(|host| host.0).collect(),
            clients: Clients {
                header_time: or(written.clients.header_time, seconds(30)),
                header_size,
                header_lines: usize::from(written.clients.header_lines.unwrap_or(100)),
            },
            stop_time: or(written.stop_time, seconds(30)),
            routes,
        })
    }
}

/// A shorter time for the store is none.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(2);

/// So long are others kept from the key of a proxy that died, and no longer.
const LONGEST_LEASE: Duration = Duration::from_secs(60 * 60);

/// An answer of which not even the outcome has room is none. In bytes.
const SMALLEST_RECORD: usize = 256;

/// A claim is kept for half as long again.
const LONGEST_SETTLE: Duration = Duration::from_secs(40 * 60);

/// Whether a route can stand behind those before it.
fn check(route: &Route, before: &[Route]) -> Result<(), String> {
    if let Some(path) = &route.path {
        path::check(path, before.iter().filter_map(|known| known.path.as_deref()))?;
    }
    let same = before.iter().filter(|known| known.path == route.path);
    for known in same {
        if let Some(method) = route.methods.iter().find(|method| known.methods.contains(method)) {
            let path = route.path.as_deref().unwrap_or("all other paths");
            return Err(format!("{method} of {path} has a route before"));
        }
    }
    if route.server_actions == ServerActions::Understood && route.scope == Scopes::Unsaid {
        let why = "`server-actions` needs a `scope`, since pages are made for their users: by a cookie, a header, or \"none\"";
        return Err(why.to_owned());
    }
    if route.settle.is_some() && route.in_doubt == InDoubt::Hold {
        let why = "`settle` says when it is sent again: it needs `in-doubt = \"rerun\"`";
        return Err(why.to_owned());
    }
    if route.server_actions == ServerActions::Understood {
        if route.dialect != Dialect::Draft {
            return Err("`dialect` is of requests by programs: calls of actions are answered in words".to_owned());
        }
        if route.fingerprint.json != JsonOrder::AsSent {
            let why = "`fingerprint.json` is of bodies of JSON: of a call of an action the fields are taken";
            return Err(why.to_owned());
        }
    }
    if route.lease < Duration::from_millis(100) {
        return Err(format!("the lease is {:?}: it is 100ms at the least", route.lease));
    }
    if route.lease > LONGEST_LEASE {
        let why = "it is 1h at the most, since so long do others wait for a proxy that died; it does not limit how long a request takes";
        return Err(format!(
            "the lease is {}: {why}",
            humantime::format_duration(route.lease)
        ));
    }
    if route.limits.record.0 < SMALLEST_RECORD {
        let why = "it is 256 B at the least, since the head of an answer is in it";
        return Err(format!("`limits.record` is {} B: {why}", route.limits.record.0));
    }
    let settle = route.settle.unwrap_or(route.lease);
    if route.in_doubt == InDoubt::Rerun && settle > LONGEST_SETTLE {
        let why = "it is 40m at the most, and as long as the lease unless it is set: others wait half as long again for a proxy that died";
        return Err(format!("`settle` is {}: {why}", humantime::format_duration(settle)));
    }
    if route.retention < Duration::from_secs(1) {
        let why =
            "an answer that is not kept is replayed to nobody. It is 1s at the least, and longer than clients retry";
        return Err(format!("the retention is {:?}: {why}", route.retention));
    }
    Ok(())
}
