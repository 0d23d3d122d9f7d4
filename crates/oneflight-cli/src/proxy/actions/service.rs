//! The layer of a route whose requests may call Server Actions.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Request, Response};
use oneflight::Fingerprint;
use oneflight::http::layer::{Dialect, FromBody, IdempotencyLayer, IdempotencyService};
use oneflight::http::{KeySource, Problem};
use oneflight::identity::IdempotencyKey;
use tower::{Layer, Service, ServiceExt};

use super::super::body::Body;
use super::super::config::Route;
use super::answer::{readable, told};
use super::called::Called;
use super::intent::{Call, Counts, Intent};
use super::read::{self, Read};

/// The field that is looked for where the route names none.
const FIELD: &str = "idempotency-key";

/// Puts the layer of a route around a backend: for calls of actions by their own rules, and for all else as it is.
#[derive(Clone, Debug)]
pub(in super::super) struct ActionsLayer {
    layer: IdempotencyLayer,
    terms: Arc<Terms>,
}

#[derive(Debug)]
struct Terms {
    counts: Counts,
    max_bytes: usize,
    time: Duration,
}

impl ActionsLayer {
    /// Makes it of the layer that the route's settings come to.
    pub(in super::super) fn new(layer: IdempotencyLayer, route: &Route, keys: KeySource) -> Self {
        let field = route.key.field.clone();
        let terms = Terms {
            counts: Counts {
                keys,
                field: field.unwrap_or_else(|| FIELD.to_owned()),
                leave_out: route.fingerprint.leave_out.clone(),
                headers: route.fingerprint.headers.clone(),
            },
            max_bytes: route.limits.request.0,
            time: route.limits.request_time,
        };
        Self {
            layer,
            terms: Arc::new(terms),
        }
    }
}

impl<S: Clone> Layer<S> for ActionsLayer {
    type Service = ActionsService<S>;

    fn layer(&self, inner: S) -> ActionsService<S> {
        let of_actions = self.layer.clone().dialect(Dialect::Draft).stream_through();
        let of_actions = of_actions
            .key(|parts: &Parts, _: &Bytes| key(parts))
            .fingerprint(fingerprint);
        ActionsService {
            actions: of_actions.layer(Called(inner.clone())),
            others: self.layer.layer(inner),
            terms: Arc::clone(&self.terms),
        }
    }
}

/// The intent was read before.
fn key(parts: &Parts) -> Result<Option<IdempotencyKey>, Problem> {
    match parts.extensions.get::<Intent>() {
        Some(intent) => intent.key.clone(),
        None => Ok(None),
    }
}

fn fingerprint(parts: &Parts, body: &[u8]) -> Result<Fingerprint, Problem> {
    let intent = parts.extensions.get::<Intent>();
    Ok(intent.map_or_else(|| Fingerprint::of(body), |intent| intent.fingerprint))
}

/// The service that an [`ActionsLayer`] makes.
#[derive(Clone, Debug)]
pub(in super::super) struct ActionsService<S> {
    actions: IdempotencyService<Called<S>>,
    others: IdempotencyService<S>,
    terms: Arc<Terms>,
}

type Answered<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for ActionsService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Display + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answered<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.others.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match Call::of(request.method(), request.headers()) {
            Some(call) => Box::pin(answer(self.clone(), request, call)),
            None => Box::pin(self.others.call(request)),
        }
    }
}

async fn answer<S>(service: ActionsService<S>, request: Request<Body>, call: Call) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Display + Send + 'static,
{
    let ActionsService { actions, others, terms } = service;
    // With two slashes it would be led to another host.
    let page = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let page = format!("/{}", page.trim_start_matches(['/', '\\']));
    let (mut parts, body) = request.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if call == Call::Fetch && length.is_some_and(|length| length > terms.max_bytes as u64) {
        return Ok(told(call, &page, Problem::body_too_large(terms.max_bytes)));
    }
    let body = match read::read(body, terms.max_bytes, terms.time).await {
        Read::Whole(body) => body,
        Read::Over { begins, body } => {
            return match call == Call::Fetch || read::names_action(&begins) {
                true => Ok(told(call, &page, Problem::body_too_large(terms.max_bytes))),
                false => others.oneshot(Request::from_parts(parts, body)).await,
            };
        }
        Read::TooSlow { begins, body } => {
            return match call == Call::Fetch || read::names_action(&begins) {
                true => Ok(told(call, &page, Problem::body_too_slow(terms.time))),
                false => others.oneshot(Request::from_parts(parts, body)).await,
            };
        }
        Read::Broken => {
            return Ok(told(
                call,
                &page,
                Problem::malformed_body("It broke off before its end."),
            ));
        }
    };
    let intent = match Intent::read(call, &parts.headers, &body, &terms.counts).await {
        Ok(intent) => intent,
        // It may call an action all the same, and would do so unprotected.
        Err(_) if read::names_action(&body) => {
            let problem = Problem::malformed_body("It is a form that calls an action, and cannot be read.");
            return Ok(told(call, &page, problem));
        }
        Err(_) => None,
    };
    let whole = Body::from_body(http_body_util::BodyExt::map_err(
        http_body_util::Full::new(body),
        |never| match never {},
    ));
    let Some(intent) = intent else {
        return others.oneshot(Request::from_parts(parts, whole)).await;
    };
    parts.extensions.insert(intent);
    let answer = actions.oneshot(Request::from_parts(parts, whole)).await?;
    Ok(readable(call, &page, answer).await)
}
