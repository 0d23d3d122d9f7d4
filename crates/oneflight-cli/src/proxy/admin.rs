//! The listener for operators: health, metrics, and reloads.

use std::sync::Arc;

use axum::extract::State as Extracted;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};

use super::state::State;

#[derive(Clone)]
struct Shared {
    state: Arc<State>,
    metrics: PrometheusHandle,
}

/// Makes the service of the listener.
pub(super) fn router(state: Arc<State>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .route("/reload", post(reload))
        .with_state(Shared { state, metrics })
}

/// Whether requests can be answered: the store decides, and of the backend it is said what is known.
async fn ready(Extracted(shared): Extracted<Shared>) -> (StatusCode, Json<Value>) {
    let generation = shared.state.current();
    let (store, backend) = tokio::join!(shared.state.protection.ready(), generation.forward.accepts());
    let status = match (&store, &backend) {
        (Ok(()), Ok(())) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let said = |result: Result<(), String>| result.map_or_else(Value::from, |()| Value::from("reachable"));
    let told = json!({
        "store": said(store),
        "backend": said(backend.map_err(|failure| failure.to_string())),
    });
    (status, Json(told))
}

async fn render(Extracted(shared): Extracted<Shared>) -> String {
    shared.metrics.render()
}

async fn reload(Extracted(shared): Extracted<Shared>, uri: Uri, lines: HeaderMap) -> (StatusCode, String) {
    if let Err(why) = is_of_an_operator(&uri, &lines, &shared.state.current().config.admin_hosts) {
        tracing::warn!(why, "a reload was not made");
        return (StatusCode::FORBIDDEN, format!("{why}\n"));
    }
    match shared.state.reload() {
        Ok(()) => (StatusCode::OK, "the configuration was read again\n".to_owned()),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
    }
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a program of an operator's asks, and not a page in a browser that can reach this address: it would say so, or ask by a name
/// of its own that leads here.
fn is_of_an_operator(uri: &Uri, lines: &HeaderMap, names: &[String]) -> Result<(), &'static str> {
    let is_of_a_page = lines.contains_key(header::ORIGIN)
        || lines
            .get(FETCH_SITE)
            .is_some_and(|site| site.as_bytes() != b"none" && site.as_bytes() != b"same-origin");
    if is_of_a_page {
        return Err("a page in a browser asks for this: a reload is asked for by a program, such as curl");
    }
    let mut hosts = lines.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => Some(authority.clone()),
        (None, Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    match host.is_some_and(|host| is_own(&host, names)) {
        true => Ok(()),
        false => Err(
            "it is asked for by a name that is not this machine's: ask by its address or by `localhost`, or list the name in `admin.hosts`",
        ),
    }
}

/// Whether a name is one that no other site can have: an address is nobody's name.
fn is_own(host: &Authority, names: &[String]) -> bool {
    if host.as_str().contains('@') {
        return false;
    }
    let host = host.host().to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok() || names.contains(&host)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_reload_is_asked_for_by_a_name_of_this_machine_and_by_no_page() {
        let asked = |lines: &[(HeaderName, &'static str)]| {
            let lines = lines
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            is_of_an_operator(
                &Uri::from_static("/reload"),
                &lines.collect(),
                &["ops.example".to_owned()],
            )
            .is_ok()
        };
        for own in [
            "localhost:9464",
            "127.0.0.1:9464",
            "[::1]:9464",
            "10.0.0.7",
            "OPS.example:9464",
        ] {
            assert!(asked(&[(header::HOST, own)]), "{own}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9464",
            "me@localhost",
            "",
        ] {
            assert!(!asked(&[(header::HOST, other)]), "{other}");
        }
        let own = (header::HOST, "127.0.0.1:9464");
        assert!(!asked(&[]));
        assert!(!asked(&[own.clone(), (header::ORIGIN, "http://127.0.0.1:9464")]));
        assert!(!asked(&[own.clone(), (header::ORIGIN, "null")]));
        assert!(!asked(&[own.clone(), (FETCH_SITE, "cross-site")]));
        assert!(asked(&[own, (FETCH_SITE, "none")]));
    }
}
