//! From a request to the answer of a backend.
//!
//! ```text
//! request ──its connection's lines off──▶ one backend after the other, until it is sent ──▶ answer ──lines off──▶ client
//!                                                          │
//!                                                          └──none, or broken──▶ Failure, with what was sent
//! ```
//!
//! This is the innermost service: the layer calls it once for each key. It knows whether a request has one by the context
//! that the layer lends, since then nothing was sent must be told apart from nobody knows.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use oneflight::http::layer::{IDEMPOTENCY_ORIGIN, Outcome};
use oneflight::http::{CorrelationId, Problem, X_CORRELATION_ID, kind};
use tower::Service;

use super::body::Body;
use super::config::{Config, Forwarded, Forwarding};
use super::headers::{self, Asked, Hops};
use super::interim::Interim;
use super::telemetry;
use super::tunnel::Tunnels;
use super::upstream::{Failure, Gate, Limits, Outgoing, Pool, Reason, Sent, Untrusted};

/// Forwards requests to the backends.
#[derive(Clone)]
pub(super) struct Forward(Arc<Backends>);

/// The backends, and how requests reach them.
pub(super) struct Backends {
    pools: Vec<Pool>,
    /// The one that accepted the last connection.
    current: AtomicUsize,
    limits: Limits,
    continue_time: Duration,
    forward: Forwarding,
    tunnels: Tunnels,
}

/// The connection that a request came by.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) interim: Interim,
}

impl Forward {
    /// Makes it, over the connections that are there already to the same backends.
    pub(super) fn new(config: &Config, before: Option<&Self>, tunnels: Tunnels) -> Self {
        let known = before.map(|before| before.0.pools.as_slice()).unwrap_or_default();
        let pools = config.upstreams.iter().map(|address| {
            let same = known.iter().find(|pool| pool.is_of(address, &config.trust));
            same.cloned()
                .unwrap_or_else(|| Pool::new(address.clone(), config.trust.clone()))
        });
        Self(Arc::new(Backends {
            pools: pools.collect(),
            current: AtomicUsize::new(0),
            limits: config.limits,
            continue_time: config.continue_time,
            forward: config.forward.clone(),
            tunnels,
        }))
    }

    /// Whether a backend accepts connections.
    pub(super) async fn accepts(&self) -> Result<(), Failure> {
        let mut failed = None;
        for pool in &self.0.pools {
            match pool.accepts(self.0.limits).await {
                Ok(()) => return Ok(()),
                Err(failure) => failed = Some(failure),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Closes connections that were idle for too long.
    pub(super) fn close_idle(&self) {
        for pool in &self.0.pools {
            pool.close_idle(self.0.limits.idle);
        }
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(forward(Arc::clone(&self.0), request))
    }
}

async fn forward(backends: Arc<Backends>, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
    let is_keyed = request.extensions().get::<oneflight::idempotency::Context>().is_some();
    let mut asked = request.extensions_mut().remove::<Asked>().unwrap_or_default();
    if is_keyed {
        // The answer to a key is for several clients, and a connection is one client's.
        asked.upgrade = None;
    }
    if let Hops::None = headers::count_hop(&request.method().clone(), request.headers_mut()) {
        return Ok(Response::new(Body::empty()));
    }
    let version = request.version();
    let changes = asked.upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let outgoing = backends.outgoing(request, &asked);
    let answered = backends.send(outgoing).await;
    let answered = answered.and_then(|answer| readable(answer, changes.as_ref()));
    let mut answer = match answered {
        Ok(answer) => answer,
        Err(failure) => {
            telemetry::upstream_failed(failure.reason);
            tracing::warn!(error = %failure, "no answer of a backend");
            return match (is_keyed, failure.sent) {
                (true, Sent::Nothing) => Ok(not_sent(&failure)),
                _ => Err(failure),
            };
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(changes) = changes
    {
        let protocol = Asked::of(answer.headers());
        let changed = hyper::upgrade::on(&mut answer);
        backends.tunnels.join(changes, changed);
        headers::leave_connection(answer.headers_mut());
        headers::enter_backend(answer.headers_mut(), &protocol);
    } else {
        let needs = answer.headers().get(UPGRADE).cloned();
        headers::leave_connection(answer.headers_mut());
        // A 426 says which protocol it wants (RFC 9110, section 15.5.22).
        if answer.status() == StatusCode::UPGRADE_REQUIRED && version == Version::HTTP_11 {
            let needed = Asked {
                upgrade: needs,
                trailers: false,
            };
            headers::enter_backend(answer.headers_mut(), &needed);
        }
    }
    let lines = answer.headers_mut();
    lines.remove(NOT_SENT);
    if let Some(name) = &backends.forward.via {
        headers::via(lines, Version::HTTP_11, name);
    }
    Ok(answer)
}

/// Whether an answer can be passed on. One whose body is in a coding of the connection cannot be without it, and a change of the protocol
/// is for a client that has asked for it.
fn readable(answer: Response<Body>, changes: Option<&OnUpgrade>) -> Result<Response<Body>, Failure> {
    let what = match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS if changes.is_none() => {
            "it changed to another protocol, which was not asked for"
        }
        _ if headers::is_only_chunked(answer.headers()) => return Ok(answer),
        _ => "its answer is in a Transfer-Encoding that is not `chunked`",
    };
    Err(Failure {
        reason: Reason::Broken,
        sent: Sent::Something,
        source: Some(what.into()),
    })
}

impl Backends {
    /// Makes the request as a backend gets it.
    fn outgoing(&self, request: Request<Body>, asked: &Asked) -> Request<Outgoing> {
        let (mut parts, body) = request.into_parts();
        let lines = &mut parts.headers;
        headers::enter_backend(lines, asked);
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(lines);
        }
        if let Some(name) = &self.forward.via {
            headers::via(lines, parts.version, name);
        }
        let client = parts.extensions.remove::<Client>();
        // The answer to a key is for several clients, and so none has interim ones.
        let is_keyed = parts.extensions.get::<oneflight::idempotency::Context>().is_some();
        if let (Forwarded::Append, Some(client)) = (self.forward.forwarded, &client) {
            append_forwarded(lines, client);
        }
        if let Some(id) = parts.extensions.get::<CorrelationId>()
            && !lines.contains_key(X_CORRELATION_ID)
        {
            let _ = lines.try_insert(X_CORRELATION_ID, id.to_header_value());
        }
        let expects = headers::expects_continue(lines);
        let (body, gate) = match (expects, body.is_incoming()) {
            (true, true) => {
                let (body, gate) = Outgoing::gated(body, self.continue_time);
                (body, Some(gate))
            }
            // The layer has read it.
            (true, false) => {
                lines.remove(EXPECT);
                (Outgoing::new(body), None)
            }
            (false, _) => (Outgoing::new(body), None),
        };
        headers::frame(lines, &body);
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = origin_form(parts.uri);
        *outgoing.headers_mut() = parts.headers;
        pass_interim(&mut outgoing, parts.version, client.filter(|_| !is_keyed), gate);
        outgoing
    }

    async fn send(&self, mut request: Request<Outgoing>) -> Result<Response<Body>, Failure> {
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let at = (first + tried) % self.pools.len();
            let pool = &self.pools[at];
            if !request.headers().contains_key(HOST)
                && let Ok(host) = HeaderValue::try_from(pool.address().authority())
            {
                request.headers_mut().insert(HOST, host);
            }
            match pool.send(request, self.limits).await {
                Ok(answer) => {
                    if tried > 0 {
                        self.current.store(at, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err((failure, Some(again))) if tried + 1 < self.pools.len() => {
                    telemetry::upstream_failed(failure.reason);
                    tracing::warn!(backend = %pool.address(), error = %failure, "the next backend is tried");
                    request = again;
                    tried += 1;
                }
                Err((failure, _)) => return Err(failure),
            }
        }
    }
}

/// Has interim answers of the backend passed on: the one that asks for the body by asking for it, the others as they are.
fn pass_interim(request: &mut Request<Outgoing>, version: Version, client: Option<Client>, gate: Option<Gate>) {
    let interim = client.map(|client| client.interim);
    if interim.is_none() && gate.is_none() {
        return;
    }
    hyper::ext::on_informational(request, move |answer| match (answer.status(), &gate, &interim) {
        // hyper's server sends this one itself, when the body is read.
        (StatusCode::CONTINUE, Some(gate), _) => gate.open(),
        (StatusCode::CONTINUE, None, _) => {}
        (status, _, Some(interim)) => interim.send(version, status, answer.headers()),
        _ => {}
    });
}

/// Leaves of a target what a server is asked for (RFC 9112, section 3.2.1).
fn origin_form(uri: Uri) -> Uri {
    if uri.scheme().is_none() && uri.authority().is_none() {
        return uri;
    }
    let path = uri.into_parts().path_and_query;
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Tells the backend who asked, behind what proxies before this one have told.
fn append_forwarded(lines: &mut HeaderMap, client: &Client) {
    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    const HOST_NAME: HeaderName = HeaderName::from_static("x-forwarded-host");

    let address = client.address.ip().to_canonical().to_string();
    let before: Vec<&str> = lines
        .get_all(FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let all = match before.is_empty() {
        true => address,
        false => format!("{}, {address}", before.join(", ")),
    };
    if let Ok(all) = HeaderValue::try_from(all) {
        lines.insert(FOR, all);
    }
    if !lines.contains_key(PROTO) {
        lines.insert(PROTO, HeaderValue::from_static("http"));
    }
    if !lines.contains_key(HOST_NAME)
        && let Some(host) = lines.get(HOST).cloned()
    {
        lines.insert(HOST_NAME, host);
    }
}

/// Marks the answer to a request that did not reach a backend. It never leaves the proxy.
pub(super) const NOT_SENT: HeaderName = HeaderName::from_static("x-oneflight-not-sent");

/// Takes from an answer that no backend gave that it was executed, which the layer says of all that this service answers.
pub(super) fn tell_no_origin(answer: &mut Response<Body>) {
    let lines = answer.headers_mut();
    if lines.remove(NOT_SENT).is_some() {
        lines.remove(IDEMPOTENCY_ORIGIN);
    }
}

/// Why not a byte reached a backend, for clients: what the names and certificates are is for the log.
fn away(reason: Reason) -> &'static str {
    match reason {
        Reason::Untrusted(Untrusted::Name) => {
            "No secure connection to the service behind this one can be made: its certificate is for another name."
        }
        Reason::Untrusted(Untrusted::Issuer) => {
            "No secure connection to the service behind this one can be made: its certificate is of an authority that is not trusted here."
        }
        Reason::Untrusted(Untrusted::Time) => {
            "No secure connection to the service behind this one can be made: its certificate is not valid now."
        }
        Reason::Untrusted(Untrusted::Other) => {
            "No secure connection to the service behind this one can be made: it does not speak TLS as it should."
        }
        Reason::Connect | Reason::Broken | Reason::TimedOut => "The service behind this one cannot be reached.",
    }
}

/// The answer to a request with a key of which not a byte was sent: its key stays free.
fn not_sent(failure: &Failure) -> Response<Body> {
    let detail = format!(
        "{} Nothing was done: send the request again, with the same key.",
        away(failure.reason)
    );
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
        .with_type(kind::NOT_DONE)
        .with_title("The operation was not carried out")
        .with_detail(detail)
        .with_member("effect", "nothing")
        .with_retry_after(Duration::from_secs(1));
    let mut answer: Response<Body> = problem.into_response();
    answer.extensions_mut().insert(Outcome::NothingDone);
    answer.headers_mut().insert(NOT_SENT, HeaderValue::from_static("true"));
    debug_assert_eq!(failure.sent, Sent::Nothing);
    answer
}

/// The answer to a request without a key that got none from a backend.
pub(super) fn bad_gateway(failure: &Failure) -> Response<Body> {
    let status = match failure.reason {
        Reason::Connect | Reason::Untrusted(_) | Reason::Broken => StatusCode::BAD_GATEWAY,
        Reason::TimedOut => StatusCode::GATEWAY_TIMEOUT,
    };
    let (detail, effect) = match failure.sent {
        Sent::Nothing => (format!("{} Nothing was done.", away(failure.reason)), "nothing"),
        Sent::Something => (
            "The service behind this one did not answer. It is not known whether it did what was asked for.".to_owned(),
            "unknown",
        ),
    };
    let title = status.canonical_reason().unwrap_or("No answer");
    Problem::new(status)
        .with_title(title)
        .with_detail(detail)
        .with_member("effect", effect)
        .into_response()
}
