//! From a route of the configuration to a layer.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, header};
use oneflight::http::layer::{IdempotencyLayer, Outcome, Recording};
use oneflight::http::{Fingerprints, KeySource, Problem};
use oneflight::idempotency::Recovery;
use oneflight::store::Store;
use oneflight::{Fingerprint, Idempotency, Scope};

use super::config::{self, InDoubt, JsonOrder, KeyForm, Principal, Recorded, Route, Scopes};

/// Makes the layer of a route. All of them share the flights of `idempotency`.
pub(super) fn layer<S: Store>(idempotency: &Idempotency<S>, route: &Route) -> IdempotencyLayer {
    let mut idempotency = idempotency
        .with_retention(route.retention)
        .with_lease(route.lease)
        .with_wait(wait(route))
        .with_max_result_bytes(route.limits.record.0)
        .with_recovery(match route.in_doubt {
            InDoubt::Hold => Recovery::Hold,
            InDoubt::Rerun => Recovery::Rerun,
        });
    if let Some(settle) = route.settle {
        idempotency = idempotency.with_settle(settle);
    }
    let requirement = route.key.requirement;
    let mut layer = IdempotencyLayer::new(idempotency)
        .methods(route.methods.iter().cloned())
        .keys(keys(&route.key))
        .when(move |_| requirement)
        .fingerprints(fingerprints(&route.fingerprint))
        .recording(recording(&route.recording))
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
        Scopes::Unsaid => layer,
        Scopes::Everybody => layer.unscoped(),
        Scopes::Of(principals) => {
            let principals = principals.clone();
            layer.scope(move |parts: &Parts| scope(&principals, &parts.headers))
        }
    }
}

/// How long a request waits for one in progress elsewhere: for longer than a holder that died keeps its claim.
fn wait(route: &Route) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(15);
    route.wait.unwrap_or_else(|| DEFAULT.max(route.lease * 3 / 2))
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

fn recording(of: &config::Recording) -> Recording {
    let named = [
        (of.recorded.clone(), Outcome::Record),
        (of.not_done.clone(), Outcome::NothingDone),
        (of.in_doubt.clone(), Outcome::Unknown),
    ];
    let base = match of.base {
        Recorded::Answers => Recording::answers(),
        Recorded::Successes => Recording::successes(),
    };
    if named.iter().all(|(statuses, _)| statuses.is_empty()) {
        return base;
    }
    Recording::by(move |answer| {
        let listed = named
            .iter()
            .find(|(statuses, _)| statuses.iter().any(|statuses| statuses.has(answer.status)));
        listed.map_or_else(|| base.outcome(answer), |(_, outcome)| *outcome)
    })
}

/// Returns the principal of a request, or the problem that it has none.
fn scope(principals: &[Principal], lines: &HeaderMap) -> Result<Scope, Problem> {
    let mut named = Vec::with_capacity(principals.len());
    for principal in principals {
        let value = match principal {
            Principal::Header(name) => the_only(lines.get_all(name).iter().map(|value| value.to_str().ok())),
            Principal::Cookie(name) => the_only(cookies(lines, name).map(Some)),
        };
        let value = value
            .filter(|value| !value.is_empty())
            .ok_or_else(Problem::principal_missing)?;
        let is_secret = matches!(principal, Principal::Cookie(_))
            || matches!(principal, Principal::Header(name) if *name == header::AUTHORIZATION)
            || value.len() > LONGEST;
        named.push(match is_secret {
            // Who can read the store must not be able to be its users.
            true => format!("sha256:{}", Fingerprint::of(value)),
            false => value.to_owned(),
        });
    }
    let mut named = named.into_iter();
    let first = named.next().ok_or_else(Problem::principal_missing)?;
    let rest: Vec<String> = named.collect();
    Ok(match rest.is_empty() {
        true => Scope::new(first),
        false => Scope::new(first).user(rest.join(" ")),
    })
}

/// A longer principal goes into a scope by its digest. In bytes.
const LONGEST: usize = 128;

/// Returns the one value that there is. Two of them leave open whose request it is.
fn the_only<'a>(mut values: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let value = values.next()??;
    values.next().is_none().then_some(value)
}

/// The values of a cookie (RFC 6265, section 5.4).
fn cookies<'a>(lines: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let all = lines
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(known, value)| (known == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, StatusCode};

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
}
