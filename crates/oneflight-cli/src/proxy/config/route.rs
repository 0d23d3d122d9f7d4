//! A route of the configuration: which requests it is for, and how these are executed once.

use std::time::Duration;

use http::{HeaderName, Method};
use oneflight::http::layer::{Cookies, Dialect, Requirement};
use serde::Deserialize;

use super::units::{Listed, Principal, Read, Size, Statuses, WebAddress};

/// How the requests of a route are treated. One without a path is for all that no other one is for.
#[derive(Clone, Debug)]
pub(in super::super) struct Route {
    pub(in super::super) path: Option<String>,
    pub(in super::super) methods: Vec<Method>,
    pub(in super::super) key: Key,
    pub(in super::super) scope: Scopes,
    pub(in super::super) fingerprint: Fingerprint,
    pub(in super::super) wait: Option<Duration>,
    pub(in super::super) retention: Duration,
    pub(in super::super) lease: Duration,
    pub(in super::super) in_doubt: InDoubt,
    pub(in super::super) settle: Option<Duration>,
    pub(in super::super) recording: Recording,
    pub(in super::super) cookies: Cookies,
    pub(in super::super) limits: Limits,
    pub(in super::super) dialect: Dialect,
    pub(in super::super) documentation: Option<String>,
    pub(in super::super) store_away: StoreAway,
    pub(in super::super) server_actions: ServerActions,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Key {
    /// Empty: `Idempotency-Key`.
    pub(in super::super) headers: Vec<HeaderName>,
    pub(in super::super) field: Option<String>,
    pub(in super::super) requirement: Requirement,
    pub(in super::super) form: KeyForm,
}

/// What a key in a header may look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum KeyForm {
    #[default]
    Any,
    /// The quoted string of the draft alone.
    Quoted,
}

/// In what a key is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Scopes {
    /// Nobody said. Clients with different credentials are told apart all the same.
    Unsaid,
    /// Clients have no accounts.
    Everybody,
    Of(Vec<Principal>),
}

#[derive(Clone, Debug, Default)]
pub(in super::super) struct Fingerprint {
    pub(in super::super) headers: Vec<HeaderName>,
    pub(in super::super) leave_out: Vec<String>,
    pub(in super::super) json: JsonOrder,
}

/// In which order the members of JSON count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum JsonOrder {
    #[default]
    AsSent,
    Sorted,
}

/// What becomes of a request of which nobody knows what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum InDoubt {
    /// It waits for a person.
    #[default]
    Hold,
    /// It is sent to the backend once more.
    Rerun,
}

#[derive(Clone, Debug, Default)]
pub(in super::super) struct Recording {
    pub(in super::super) base: Recorded,
    pub(in super::super) recorded: Vec<Statuses>,
    pub(in super::super) not_done: Vec<Statuses>,
    pub(in super::super) in_doubt: Vec<Statuses>,
}

/// Which answers are recorded, unless their status is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Recorded {
    #[default]
    Answers,
    Successes,
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Limits {
    pub(in super::super) request: Size,
    pub(in super::super) request_time: Duration,
    pub(in super::super) answer: Size,
    pub(in super::super) answer_time: Duration,
    pub(in super::super) record: Size,
}

/// What becomes of requests with a key while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum StoreAway {
    /// They are answered with 503.
    #[default]
    Fail,
    /// They are forwarded, as often as they come.
    Pass,
}

/// Whether requests may be Server Actions of Next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum ServerActions {
    #[default]
    Unknown,
    Understood,
}

impl Default for Route {
    fn default() -> Self {
        Written::default().into()
    }
}

/// A route as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, which begins with `[[route]]`"
)]
pub(super) struct Written {
    path: Option<Read<String>>,
    methods: Option<Listed<Method>>,
    key: WrittenKey,
    scope: Option<WrittenScope>,
    fingerprint: WrittenFingerprint,
    wait: Option<Read<Duration>>,
    retention: Option<Read<Duration>>,
    lease: Option<Read<Duration>>,
    in_doubt: InDoubt,
    settle: Option<Read<Duration>>,
    recording: Recorded,
    statuses: WrittenStatuses,
    set_cookie: WrittenCookies,
    limits: WrittenLimits,
    dialect: WrittenDialect,
    documentation: Option<Read<WebAddress>>,
    store_away: StoreAway,
    server_actions: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `key = { required = \"required\" }`"
)]
struct WrittenKey {
    headers: Listed<HeaderName>,
    field: Option<Read<String>>,
    required: WrittenRequirement,
    form: KeyForm,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenRequirement {
    Required,
    #[default]
    Optional,
    Off,
}

#[derive(Debug)]
struct WrittenScope(Scopes);

impl<'de> Deserialize<'de> for WrittenScope {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Listed(all) = Listed::<Named>::deserialize(from)?;
        let mut principals = Vec::new();
        for named in &all {
            match named {
                Named::None if all.len() > 1 => {
                    return Err(serde::de::Error::custom("\"none\" stands alone, or not at all"));
                }
                Named::None => return Ok(Self(Scopes::Everybody)),
                Named::By(principal) => principals.push(principal.clone()),
            }
        }
        match principals.is_empty() {
            true => Err(serde::de::Error::custom("an empty scope says nothing: write \"none\"")),
            false => Ok(Self(Scopes::Of(principals))),
        }
    }
}

enum Named {
    None,
    By(Principal),
}

impl super::units::Text for Named {
    const EXPECTED: &'static str = "\"none\", \"header NAME\" or \"cookie NAME\"";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            text => Principal::read(text).map(Self::By),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `fingerprint = { headers = [\"X-Version\"] }`"
)]
struct WrittenFingerprint {
    headers: Listed<HeaderName>,
    leave_out: Listed<String>,
    json: JsonOrder,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `statuses = { not-done = [\"409\"] }`"
)]
struct WrittenStatuses {
    recorded: Listed<Statuses>,
    not_done: Listed<Statuses>,
    in_doubt: Listed<Statuses>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenCookies {
    #[default]
    Drop,
    OutcomeOnly,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    default,
    expecting = "a table, as in `limits = { request = \"2 MiB\" }`"
)]
struct WrittenLimits {
    request: Option<Read<Size>>,
    request_time: Option<Read<Duration>>,
    answer: Option<Read<Size>>,
    answer_time: Option<Read<Duration>>,
    record: Option<Read<Size>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenDialect {
    #[default]
    Draft,
    Stripe,
    Grpc,
}

const MIB: usize = 1024 * 1024;

impl From<Written> for Route {
    fn from(written: Written) -> Self {
        let seconds = Duration::from_secs;
        let or = |time: Option<Read<Duration>>, default: Duration| time.map_or(default, |time| time.0);
        let size = |size: Option<Read<Size>>, default: usize| size.map_or(Size(default), |size| size.0);
        let methods = written.methods.map_or_else(Vec::new, |methods| methods.0);
        Self {
            path: written.path.map(|path| path.0),
            methods: match methods.is_empty() {
                true => vec![Method::POST, Method::PATCH],
                false => methods,
            },
            key: Key {
                headers: written.key.headers.0,
                field: written.key.field.map(|field| field.0),
                requirement: match written.key.required {
                    WrittenRequirement::Required => Requirement::Required,
                    WrittenRequirement::Optional => Requirement::Optional,
                    WrittenRequirement::Off => Requirement::Off,
                },
                form: written.key.form,
            },
            scope: written.scope.map_or(Scopes::Unsaid, |scope| scope.0),
            fingerprint: Fingerprint {
                headers: written.fingerprint.headers.0,
                leave_out: written.fingerprint.leave_out.0,
                json: written.fingerprint.json,
            },
            wait: written.wait.map(|wait| wait.0),
            retention: or(written.retention, seconds(24 * 60 * 60)),
            lease: or(written.lease, seconds(10)),
            in_doubt: written.in_doubt,
            settle: written.settle.map(|settle| settle.0),
            recording: Recording {
                base: written.recording,
                recorded: written.statuses.recorded.0,
                not_done: written.statuses.not_done.0,
                in_doubt: written.statuses.in_doubt.0,
            },
            cookies: match written.set_cookie {
                WrittenCookies::Drop => Cookies::Drop,
                WrittenCookies::OutcomeOnly => Cookies::OutcomeOnly,
            },
            limits: Limits {
                // What is larger than Next's own limit would be answered as an action that throws.
                request: size(
                    written.limits.request,
                    if written.server_actions { MIB } else { 2 * MIB },
                ),
                request_time: or(written.limits.request_time, seconds(30)),
                answer: size(written.limits.answer, 2 * MIB),
                answer_time: or(written.limits.answer_time, seconds(5)),
                record: size(written.limits.record, 256 * 1024),
            },
            dialect: match written.dialect {
                WrittenDialect::Draft => Dialect::Draft,
                WrittenDialect::Stripe => Dialect::Stripe,
                WrittenDialect::Grpc => Dialect::Grpc,
            },
            documentation: written.documentation.map(|uri| uri.0.0),
            store_away: written.store_away,
            server_actions: match written.server_actions {
                true => ServerActions::Understood,
                false => ServerActions::Unknown,
            },
        }
    }
}
