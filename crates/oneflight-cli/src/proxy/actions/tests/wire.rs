//! What the tests share: calls as React writes them, a backend that answers as it is told, and the layer between.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use oneflight::http::layer::{FromBody, IdempotencyLayer, Recording};
use oneflight::{Idempotency, MemoryStore, Scope};
use tower::{Layer, Service, ServiceExt};

use crate::proxy::actions::{ActionsLayer, ActionsService};
use crate::proxy::body::Body;
use crate::proxy::config::Route;
use crate::proxy::policy;

/// The id of an action.
pub(super) const PLACE: &str = "60c3f1a1f0c2b1a09f8e7d6c5b4a39281706f5e4d3";
pub(super) const NOTE: &str = "60aa11bb22cc33dd44ee55ff66aa77bb88cc99dd00";

/// What Next says of caching when it begins an action.
pub(super) const BEGUN: (&str, &str) = ("cache-control", "no-cache, no-store, max-age=0, must-revalidate");

pub(super) type Fields<'a> = &'a [(&'a str, &'a str)];

/// Writes a multipart body.
pub(super) fn multipart(boundary: &str, fields: Fields<'_>) -> String {
    let parts = fields.iter().map(|(name, value)| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    });
    parts.chain([format!("--{boundary}--\r\n")]).collect()
}

/// Makes a request of a script, with these parts.
pub(super) fn fetch(id: &str, boundary: &str, fields: Fields<'_>) -> Request<Body> {
    post(boundary, fields, &[("next-action", id), ("accept", "text/x-component")])
}

/// Makes the request of a script for the form that a user filled: `useActionState`, as 16 and 15.5 write it.
pub(super) fn fetch_form(id: &str, boundary: &str, state: &str, fields: Fields<'_>) -> Request<Body> {
    let own: Vec<(String, &str)> = fields
        .iter()
        .map(|(name, value)| (format!("_1_{name}"), *value))
        .collect();
    let root = format!("[{state},\"$K1\"]");
    let mut all: Vec<(&str, &str)> = own.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    all.push(("0", &root));
    fetch(id, boundary, &all)
}

/// Makes the request of a browser for the same form, without scripts.
pub(super) fn plain_form(id: &str, boundary: &str, state: &str, fields: Fields<'_>) -> Request<Body> {
    let described = format!("{{\"id\":\"{id}\",\"bound\":\"$@1\"}}");
    let bound = format!("[{state}]");
    let mut all = vec![
        ("$ACTION_REF_1", ""),
        ("$ACTION_1:0", described.as_str()),
        ("$ACTION_1:1", bound.as_str()),
        ("$ACTION_KEY", "k1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d"),
    ];
    all.extend_from_slice(fields);
    post(boundary, &all, &[])
}

fn post(boundary: &str, fields: Fields<'_>, lines: Fields<'_>) -> Request<Body> {
    let media_type = format!("multipart/form-data; boundary={boundary}");
    let mut all = vec![("content-type", media_type.as_str())];
    all.extend_from_slice(lines);
    raw("/?intent=k", &all, multipart(boundary, fields))
}

pub(super) fn raw(path: &str, lines: Fields<'_>, body: impl Into<Bytes>) -> Request<Body> {
    let mut request = Request::post(path)
        .header("cookie", "user=ada")
        .header("host", "shop.example:8443");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let body = http_body_util::Full::new(body.into()).map_err(|never: Infallible| match never {});
    request.body(Body::from_body(body)).unwrap()
}

/// An answer, less its body.
pub(super) fn head(status: u16, lines: Fields<'_>) -> Response<()> {
    let mut answer = Response::builder().status(status);
    for (name, value) in lines {
        answer = answer.header(*name, *value);
    }
    answer.body(()).unwrap()
}

/// Heads with their bodies, in the order in which they are given.
type Answers = Vec<(Response<()>, &'static str)>;

/// The backend: it keeps the requests that come, and answers each with the next answer, or the last one.
#[derive(Clone)]
pub(super) struct Backend {
    answers: Arc<Mutex<Answers>>,
    pub(super) asked: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl Backend {
    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Service<Request<Body>> for Backend {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.asked.lock().unwrap().push(request.into_parts().0);
        let mut answers = self.answers.lock().unwrap();
        let (head, body) = match answers.len() {
            1 => answers[0].clone(),
            _ => answers.remove(0),
        };
        ready(Ok(head.map(|()| Body::from(body.to_owned()))))
    }
}

/// The layer before such a backend. Users are told apart by the cookie `user`.
pub(super) struct Site {
    pub(super) service: ActionsService<Backend>,
    pub(super) backend: Backend,
}

pub(super) fn site(answers: Answers) -> Site {
    site_with(Recording::answers(), answers)
}

pub(super) fn site_with(recording: Recording, answers: Answers) -> Site {
    let backend = Backend {
        answers: Arc::new(Mutex::new(answers)),
        asked: Arc::default(),
    };
    Site {
        service: layer(recording).layer(backend.clone()),
        backend,
    }
}

pub(super) fn layer(recording: Recording) -> ActionsLayer {
    let mut route = Route::default();
    route.key.field = Some("key".to_owned());
    route.limits.request.0 = 100_000;
    let layer = plain(&route).recording(recording);
    ActionsLayer::new(layer, &route, policy::keys(&route.key))
}

/// Makes the layer of a route with these settings.
pub(super) fn layer_of(route: Route) -> ActionsLayer {
    let keys = policy::keys(&route.key);
    ActionsLayer::new(plain(&route), &route, keys)
}

fn plain(route: &Route) -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build())
        .keys(policy::keys(&route.key))
        .scope(|parts| Some(Scope::new(parts.headers.get("cookie")?.to_str().ok()?)))
}

/// What a client sees of an answer.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) lines: http::HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn line(&self, name: &str) -> &str {
        let line = self.lines.get(name);
        line.map_or("", |line| line.to_str().unwrap())
    }
}

impl Site {
    pub(super) async fn send(&self, request: Request<Body>) -> Seen {
        let answer = self.service.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(!parts.headers.contains_key("x-oneflight-called-by"));
        Seen {
            status: parts.status.as_u16(),
            lines: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

pub(super) const OK: u16 = StatusCode::OK.as_u16();
