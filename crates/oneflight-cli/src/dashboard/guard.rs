//! What stands before every request: by which name the page was reached, from which page a change comes, and who asks.
//!
//! A browser sends what any page that it shows makes it send. So a request passes only
//!
//! * under a name of this machine, or one that was given: another site's name that resolves to this address is none of these;
//! * if it changes something, from this page: `Origin` is the same, `Sec-Fetch-Site` says so, the body is JSON, and the token of
//!   the session is in a header, which no form and no other site can send.
//!
//! Every answer says that it may be neither framed nor kept nor guessed at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::{Permission, Session};
use super::problem::Problem;
use super::shared::Shared;

/// How long a request may take, its body included.
const TIME_LIMIT: Duration = Duration::from_secs(30);

const CSRF: HeaderName = HeaderName::from_static("x-oneflight-csrf");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The paths that take no session: the page has nothing from the store in it.
const OPEN: [&str; 3] = ["/", "/api/session", "/api/login"];

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Who changes something, as the log has it.
#[derive(Clone)]
pub(super) struct Operator(pub(super) String);

pub(super) async fn check(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let passed = pass(&shared, &mut request);
    let mut response = match passed {
        Ok(()) => match tokio::time::timeout(TIME_LIMIT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let message =
                    "it took too long; a change may have been made all the same, so look before you try again";
                Problem::new(StatusCode::GATEWAY_TIMEOUT, "slow", message).into_response()
            }
        },
        Err(problem) => {
            tracing::debug!(kind = problem.kind(), "a request was turned away");
            problem.into_response()
        }
    };
    protect(response.headers_mut(), &shared.page.policy);
    response
}

fn pass(shared: &Shared, request: &mut Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = authority(request);
    let Some(host) = host.filter(|host| shared.hosts.has(host)) else {
        let message = "the page is not known under this name; reach it by the address that it printed, or name the host by \
                       --public-host";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", message));
    };
    let path = request.uri().path();
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    let site = text(headers, &FETCH_SITE);
    // To come to the page by a link is no harm: there is nothing on it yet.
    let is_foreign =
        site.is_some_and(|site| site != "same-origin") && (is_change || (path != "/" && site != Some("none")));
    if is_foreign {
        return Err(Problem::forbidden("foreign", "another site's page asked for this"));
    }
    if is_change {
        own(headers, &host)?;
    }
    let permission = shared.access.of(session_id(headers, shared.port));
    if OPEN.contains(&path) {
        return Ok(());
    }
    match permission {
        Permission::ReadOnly if is_change => Err(Problem::forbidden("read-only", READ_ONLY)),
        Permission::ReadOnly => Ok(()),
        Permission::Nothing => {
            let message = "log in with the token";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "login", message))
        }
        Permission::Everything(session) => {
            if is_change {
                carried(headers, &session)?;
                let peer = request
                    .extensions()
                    .get::<Peer>()
                    .map(|Peer(address)| address.ip().to_string());
                let operator = Operator(format!("{} from {}", session.name, peer.as_deref().unwrap_or("?")));
                request.extensions_mut().insert(operator);
            }
            Ok(())
        }
    }
}

/// Why nothing can be changed where there is no token.
pub(super) const READ_ONLY: &str = "Read-only: the dashboard was started without a token. Start it with --token-file, or with \
                                    ONEFLIGHT_DASHBOARD_TOKEN, to change something here.";

/// Checks that a change comes from this page.
fn own(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    let origin = text(headers, &header::ORIGIN).and_then(|origin| {
        let rest = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))?;
        Some(rest.eq_ignore_ascii_case(host.as_str()))
    });
    if origin != Some(true) {
        let message = "the request has no Origin, or another site's: only the page itself changes something";
        return Err(Problem::forbidden("origin", message));
    }
    let is_json = text(headers, &header::CONTENT_TYPE)
        .and_then(|content| content.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    match is_json {
        true => Ok(()),
        false => {
            let message = "a change is sent as application/json";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "type", message))
        }
    }
}

/// Checks that a change carries the token of its session.
fn carried(headers: &HeaderMap, session: &Session) -> Result<(), Problem> {
    match text(headers, &CSRF).is_some_and(|given| session.has_csrf(given)) {
        true => Ok(()),
        false => {
            let message = "the request does not carry the session's token; load the page again";
            Err(Problem::forbidden("csrf", message))
        }
    }
}

/// Returns the name by which the page was asked for, if there is exactly one.
fn authority(request: &Request) -> Option<Authority> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    match (lines.next(), lines.next(), request.uri().authority()) {
        (Some(host), None, None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

/// Returns a header that is there once, as text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        // More than one is none that can be trusted.
        (Some(_), Some(_)) => Some(""),
        (None, _) => None,
    }
}

/// Returns the name of the session's cookie.
pub(super) fn cookie_name(port: u16) -> String {
    format!("oneflight_dashboard_{port}")
}

/// Returns the session's id, as the browser sent it.
pub(super) fn session_id(headers: &HeaderMap, port: u16) -> Option<&str> {
    let name = cookie_name(port);
    let lines = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, id)| id)
}

fn protect(headers: &mut HeaderMap, policy: &HeaderValue) {
    let fixed = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
}
