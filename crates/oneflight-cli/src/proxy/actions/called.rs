//! Between the layer and the backend: what an answer says of the action, before it is recorded.
//!
//! Next says of caching, as soon as it has found that a request may call an action, that there is none (`no-cache, no-store, max-age=0, must-revalidate`). What it
//! answers before has another `Cache-Control`, or none.
//!
//! | what Next answers | what it means | what becomes of it |
//! | --- | --- | --- |
//! | `x-nextjs-action-not-found: 1` (15.5: 404; 16: 409, and 400 for what is no id) | no such action in this build | the key is free |
//! | 413 | something before the app has a limit of its own | the key is free |
//! | 3xx or 4xx without a `Cache-Control`, which leads no script on | something before the action answered, such as a middleware | the key is free |
//! | 500 as Next answers what fails its check of `Origin` | there was no action | the key is free |
//! | anything else | the action was executed | as the route records |
//!
//! Two things are answered as an action is that throws, with no difference but the wording: a body over Next's own limit, so that the
//! route's limit is Next's, and such a body does not get there; and, by 15.5, a form whose action is not of this build.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use oneflight::http::layer::Outcome;
use oneflight::idempotency;
use tower::Service;

use super::super::body::Body;
use super::intent::{Call, Intent};

/// By what the call was made whose answer this is. It is recorded, and never leaves the proxy.
pub(super) const CALLED_BY: HeaderName = HeaderName::from_static("x-oneflight-called-by");

pub(super) const ACTION_REDIRECT: HeaderName = HeaderName::from_static("x-action-redirect");
const ACTION_NOT_FOUND: HeaderName = HeaderName::from_static("x-nextjs-action-not-found");

impl Call {
    fn as_value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Fetch => "fetch",
            Self::Form => "form",
        })
    }

    /// Reads what was recorded with an answer.
    pub(super) fn recorded(lines: &HeaderMap) -> Option<Self> {
        match lines.get(CALLED_BY)?.as_bytes() {
            b"fetch" => Some(Self::Fetch),
            b"form" => Some(Self::Form),
            _ => None,
        }
    }
}

/// The service that sees each answer to a call with a key.
#[derive(Clone, Debug)]
pub(super) struct Called<S>(pub(super) S);

impl<S> Service<Request<Body>> for Called<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: fmt::Display + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_executed_once = request.extensions().get::<idempotency::Context>().is_some();
        let call = request.extensions().get::<Intent>().map(|intent| intent.call);
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut answer = answered.await?;
            if let Some(call) = call.filter(|_| is_executed_once) {
                mark(&mut answer, call);
            }
            Ok(answer)
        })
    }
}

fn mark(answer: &mut Response<Body>, call: Call) {
    if is_before_the_action(answer.status(), answer.headers(), call) {
        answer.extensions_mut().insert(Outcome::NothingDone);
    }
    let lines = answer.headers_mut();
    let _ = lines.try_insert(CALLED_BY, call.as_value());
    // An outcome without its body keeps this line, and no other one that says where an action led.
    if let Some(to) = redirect(lines)
        && let Ok(to) = HeaderValue::from_str(to)
    {
        let _ = lines.try_insert(LOCATION, to);
    }
}

/// Returns where an action led that a script called: `/orders/7;push`.
pub(super) fn redirect(lines: &HeaderMap) -> Option<&str> {
    let value = lines.get(ACTION_REDIRECT)?.to_str().ok()?;
    Some(value.rsplit_once(';').map_or(value, |(to, _)| to))
}

/// Whether an answer was given before the action began. In doubt it was not: to execute twice is worse than to record too much.
fn is_before_the_action(status: StatusCode, lines: &HeaderMap, call: Call) -> bool {
    if lines.contains_key(ACTION_NOT_FOUND) || status == StatusCode::PAYLOAD_TOO_LARGE {
        return true;
    }
    let caching = lines.get(CACHE_CONTROL).map(HeaderValue::as_bytes);
    match (status.as_u16(), call) {
        (300..=499, _) => caching.is_none() && !lines.contains_key(ACTION_REDIRECT),
        (500, Call::Fetch) => caching == Some(PAGES),
        (500, Call::Form) => caching.is_none() || caching == Some(PAGES),
        _ => false,
    }
}

/// What Next says of caching where it renders a page: what it sends to one whose `Origin` is not the site's.
const PAGES: &[u8] = b"private, no-cache, no-store, max-age=0, must-revalidate";
