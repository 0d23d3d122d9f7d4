//! From a route of the configuration to a layer.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use oneflight::http::layer::{IdempotencyLayer, Outcome, Recording};
use oneflight::http::{Fingerprints, KeySource, Problem};
use oneflight::idempotency::Recovery;
use oneflight::store::Store;
use oneflight::{Fingerprint, Idempotency, Scope};

use super::config::{self, InDoubt, JsonOrder, KeyForm, Principal, Recorded, Route, Scopes, ServerActions};

/// Makes the layer of a route. All of them share the flights of `idempotency`.
pub(super) fn layer<S: Store>(idempotency: &Idempotency<S>, route: &Route) -> IdempotencyLayer {
    let mut idempotency = idempotency
        .with_retention(route.retention)
        .with_lease(lease(route))
        .with_wait(wait(route))
        .with_max_result_bytes(route.limits.record.0)
        .with_recovery(match route.in_doubt {
            InDoubt::Hold => Recovery::Hold,
            InDoubt::Rerun => Recovery::Rerun,
        });
    if route.in_doubt == InDoubt::Rerun {
        idempotency = idempotency.with_settle(settle(route));
    }
    let requirement = route.key.requirement;
    let mut layer = IdempotencyLayer::new(idempotency)
        .methods(route.methods.iter().cloned())
        .keys(keys(&route.key))
        .when(move |_| requirement)
        .fingerprints(fingerprints(&route.fingerprint))
        .recording(recording(route))
        .cookies(route.cookies)
        .max_request_bytes(route.limits.request.0)
        .request_time(route.limits.request_time)
        .max_answer_bytes(route.limits.answer.0)
        .answer_time(route.limits.answer_time)
        .dialect(route.dialect);
    if let Some(wait) = route.wait {
        layer = layer.wait(wait);
    }
    if let Some(uri) = &route.documentation {
        layer = layer.documentation(uri.as_str());
    }
    match &route.scope {
        // Nobody said it: then it is told in the words of the file, when the route is made.
        Scopes::Unsaid | Scopes::Everybody => layer.unscoped(),
        Scopes::Of(principals) => {
            let principals = principals.clone();
            layer.scope(move |parts: &Parts| scope(&principals, &parts.headers))
        }
    }
}

/// How long a request waits for one in progress elsewhere: for longer than a holder that died keeps its claim.
fn wait(route: &Route) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(15);
    route.wait.unwrap_or_else(|| DEFAULT.max(lease(route) * 3 / 2))
}

/// How long after a doubt a request is sent once more.
fn settle(route: &Route) -> Duration {
    route.settle.unwrap_or(route.lease)
}

/// How long others wait for a proxy that died. It renews its claims three times in that, so that two thirds of it are left when it dies:
/// where a request is sent once more after that, these are as long as it has to settle.
pub(super) fn lease(route: &Route) -> Duration {
    match route.in_doubt {
        InDoubt::Hold => route.lease,
        InDoubt::Rerun => route.lease.max(settle(route) * 3 / 2),
    }
}

/// Returns where a key is looked for.
pub(super) fn keys(key: &config::Key) -> KeySource {
    let mut keys = KeySource::new();
    for name in &key.headers {
        keys = keys.alias(name.clone());
    }
    if let Some(field) = &key.field {
        keys = keys.field(field.clone());
    }
    match key.form {
        KeyForm::Any => keys,
        KeyForm::Quoted => keys.strict(),
    }
}

fn fingerprints(of: &config::Fingerprint) -> Fingerprints {
    let mut fingerprints = Fingerprints::new();
    for name in &of.headers {
        fingerprints = fingerprints.header(name.clone());
    }
    for field in &of.leave_out {
        fingerprints = fingerprints.leave_out(field.clone());
    }
    match of.json {
        JsonOrder::AsSent => fingerprints,
        JsonOrder::Sorted => fingerprints.sorted_json(),
    }
}

fn recording(route: &Route) -> Recording {
    let of = &route.recording;
    // Next says itself what came before an action; what came after is recorded, whatever it is.
    let is_of_actions = route.server_actions == ServerActions::Understood;
    let named = [
        (of.recorded.clone(), Outcome::Record),
        (of.not_done.clone(), Outcome::NothingDone),
        (of.in_doubt.clone(), Outcome::Unknown),
    ];
    let base = match of.base {
        Recorded::Answers => Recording::answers(),
        Recorded::Successes => Recording::successes(),
    };
    Recording::by(move |answer| {
        let listed = named
            .iter()
            .find(|(statuses, _)| statuses.iter().any(|statuses| statuses.has(answer.status)));
        match (listed, answer.status) {
            (Some((_, outcome)), _) => *outcome,
            // Who asks is found out behind this, and before anything is done: with other credentials it is another request. (A 403
            // may be what came of it: a card that was refused, say.)
            (None, StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED) if !is_of_actions => {
                Outcome::NothingDone
            }
            (None, _) => base.outcome(answer),
        }
    })
}

/// Returns the principal of a request, or the problem that it has none.
fn scope(principals: &[Principal], lines: &HeaderMap) -> Result<Scope, Problem> {
    let mut named = Vec::with_capacity(principals.len());
    for principal in principals {
        let value = match principal {
            Principal::Header(name) => the_only(lines.get_all(name).iter().map(|value| value.to_str().ok())),
            Principal::Cookie(name) => the_only(cookies(lines, name)),
        };
        let value = value
            .filter(|value| !value.is_empty())
            .ok_or_else(Problem::principal_missing)?;
        let is_secret = match principal {
            Principal::Cookie(_) => true,
            Principal::Header(name) => SECRETS.contains(&name.as_str()) || value.len() > LONGEST,
        };
        // A digest that a client sends is none, or it would be in the scope of another one.
        named.push(match is_secret || value.starts_with(DIGEST) {
            // Who can read the store must not be able to be its users.
            true => format!("{DIGEST}{}", Fingerprint::of(value)),
            false => value.to_owned(),
        });
    }
    let mut named = named.into_iter();
    let first = named.next().ok_or_else(Problem::principal_missing)?;
    let rest: Vec<String> = named.collect();
    Ok(match rest.as_slice() {
        [] => Scope::new(first),
        [one] => Scope::new(first).user(one),
        // With their lengths, so that no other ones are written alike.
        all => {
            let all: Vec<String> = all.iter().map(|one| format!("{}:{one}", one.len())).collect();
            Scope::new(first).user(all.join(" "))
        }
    })
}

/// The cookies of a scope, as a request has them.
pub(super) struct Cookies<'a>(Vec<(&'a str, String)>);

impl<'a> Cookies<'a> {
    pub(super) fn of(scope: &'a Scopes, lines: &HeaderMap) -> Self {
        let Scopes::Of(principals) = scope else {
            return Self(Vec::new());
        };
        let named = principals.iter().filter_map(|principal| match principal {
            Principal::Cookie(name) => Some((name.as_str(), the_only(cookies(lines, name))?.to_owned())),
            Principal::Header(_) => None,
        });
        Self(named.collect())
    }

    /// Returns the name of one that an answer sets to another value. To delete it is another matter.
    pub(super) fn changed(&self, answer: &HeaderMap) -> Option<&'a str> {
        let set = |name: &str, before: &str| {
            let all = answer.get_all(header::SET_COOKIE).iter();
            all.filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='))
                .any(|(known, value)| known.trim() == name && !value.trim().is_empty() && value.trim() != before)
        };
        self.0
            .iter()
            .find(|(name, before)| set(name, before))
            .map(|(name, _)| *name)
    }
}

const DIGEST: &str = "sha256:";

/// A longer principal goes into a scope by its digest, since it may be a secret. In bytes: a UUID is none.
const LONGEST: usize = 36;

/// The headers by whose values one is who they name.
const SECRETS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-auth-token",
];

/// Returns the one value that there is. Two of them leave open whose request it is.
fn the_only<'a>(mut values: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let value = values.next()??;
    values.next().is_none().then_some(value)
}

/// The values of a cookie (RFC 6265, section 5.4): `None` for one that is no text. Whatever other cookies are does not matter.
fn cookies<'a>(lines: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = Option<&'a str>> {
    let all = lines.get_all(header::COOKIE).iter().map(|value| value.as_bytes());
    all.flat_map(|line| line.split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (known, value) = (&pair[..at], &pair[at + 1..]);
            (known.trim_ascii() == name.as_bytes()).then(|| value.trim_ascii())
        })
        .map(|value| str::from_utf8(value).ok().filter(|value| value.is_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn principals() -> Vec<Principal> {
        vec![
            Principal::Header(http::HeaderName::from_static("x-tenant")),
            Principal::Cookie("session".to_owned()),
        ]
    }

    #[test]
    fn a_principal_is_named_once_and_its_secrets_are_digested() {
        let mut lines = HeaderMap::new();
        assert!(scope(&principals(), &lines).is_err());
        lines.insert("x-tenant", HeaderValue::from_static("acme"));
        assert!(scope(&principals(), &lines).is_err());
        lines.insert(header::COOKIE, HeaderValue::from_static("a=b; session=s3cret"));
        let told = format!("{:?}", scope(&principals(), &lines).map_err(|problem| problem.status()));
        assert!(told.contains("acme") && !told.contains("s3cret"), "{told}");
        lines.append(header::COOKIE, HeaderValue::from_static("session=other"));
        assert_eq!(
            scope(&principals(), &lines).map_err(|problem| problem.status()).err(),
            Some(StatusCode::FORBIDDEN)
        );
    }

    fn of(named: &[(&'static str, &[u8])], principals: &[Principal]) -> Result<Scope, StatusCode> {
        let mut lines = HeaderMap::new();
        for (name, value) in named {
            lines.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        scope(principals, &lines).map_err(|problem| problem.status())
    }

    #[test]
    fn what_died_with_the_proxy_has_its_time_to_settle_as_well() {
        let rerun = |lease, settle: Option<u64>| Route {
            in_doubt: InDoubt::Rerun,
            lease: Duration::from_secs(lease),
            settle: settle.map(Duration::from_secs),
            ..Route::default()
        };
        for (route, expected) in [
            (rerun(10, None), 15),
            (rerun(10, Some(0)), 10),
            (rerun(10, Some(4)), 10),
            (rerun(10, Some(30)), 45),
            (Route::default(), 10),
        ] {
            assert_eq!(lease(&route), Duration::from_secs(expected), "{route:?}");
            assert!(wait(&route) > lease(&route));
        }
    }

    #[test]
    fn principals_that_differ_are_scopes_that_differ() {
        let names = ["x-a", "x-b", "x-c"];
        let principals = names.map(|name| Principal::Header(http::HeaderName::from_static(name)));
        let of = |values: [&'static str; 3]| {
            let lines: Vec<(&str, &[u8])> = names.into_iter().zip(values.map(str::as_bytes)).collect();
            of(&lines, &principals).expect("all are there")
        };
        assert_eq!(of(["t", "a b", "c"]), of(["t", "a b", "c"]));
        assert_ne!(of(["t", "a b", "c"]), of(["t", "a", "b c"]));
        assert_ne!(of(["t", "a 1:b", "c"]), of(["t", "a", "b 1:c"]));
        // What a long one is written as cannot be sent by another client.
        let long = "l".repeat(200);
        let digest = format!("{DIGEST}{}", Fingerprint::of(&long));
        let one = [Principal::Header(http::HeaderName::from_static("x-a"))];
        assert_ne!(
            super::scope(
                &one,
                &HeaderMap::from_iter([(http::HeaderName::from_static("x-a"), long.parse().expect("a value"))])
            )
            .ok(),
            super::scope(
                &one,
                &HeaderMap::from_iter([(http::HeaderName::from_static("x-a"), digest.parse().expect("a value"))])
            )
            .ok(),
        );
    }

    #[test]
    fn one_cookie_is_read_whatever_the_others_are_and_two_of_its_name_are_nobody() {
        let session = [Principal::Cookie("session".to_owned())];
        let of = |lines: &[&'static [u8]]| {
            let lines: Vec<(&str, &[u8])> = lines.iter().map(|line| ("cookie", *line)).collect();
            of(&lines, &session)
        };
        let anne = of(&[b"session=anne"]).expect("a scope");
        assert_eq!(of(&[b"name=J\xf6rg; session=anne; x=\xff"]), Ok(anne));
        for nobody in [
            &[&b"session=anne"[..], b"name=\xf6; session=bob"][..],
            &[b"session=anne; session=bob"],
            &[b"session=\xf6"],
            &[b"session=anne", b"session=\xf6"],
            &[b"name=\xf6"],
        ] {
            assert_eq!(of(nobody), Err(StatusCode::FORBIDDEN));
        }
    }
}
