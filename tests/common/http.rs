//! What the tests of the HTTP layer share: requests and answers of axum's, handlers that count, and a raw client.
//!
//! The file knows nothing of what is expected.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use axum::routing::post;
use http_body_util::BodyExt;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::store::Store;
use oneflight::{Idempotency, MemoryStore, Scope};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

/// A layer whose clients are not told apart, over a store of its own.
pub fn layer() -> IdempotencyLayer {
    layer_over(MemoryStore::new())
}

pub fn layer_over(store: impl Store) -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(store).build()).unscoped()
}

/// `POST /orders` of a text.
pub fn request(key: &str, body: impl Into<Body>) -> Request<Body> {
    typed("text/plain", key, body)
}

/// `POST /orders` of a body of this type.
pub fn typed(content_type: &str, key: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/orders").header("idempotency-key", key);
    request.header("content-type", content_type).body(body.into()).unwrap()
}

/// `POST /orders` without a key.
pub fn keyless(body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/orders").header("content-type", "text/plain");
    request.body(body.into()).unwrap()
}

pub async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

pub async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// A tenant and a user, as an authentication outside of the layer would have found it.
#[derive(Clone)]
pub struct User(pub &'static str, pub &'static str);

/// Makes a key valid for one user.
pub fn of_user(scoped: IdempotencyLayer) -> IdempotencyLayer {
    scoped.scope(|request| {
        let user = request.extensions.get::<User>()?;
        Some(Scope::new(user.0).user(user.1))
    })
}

/// A request that this user was found to have sent.
pub fn by(user: User, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(user);
    request
}

/// What the layer says of an answer, or nothing.
pub fn origin<B>(response: &Response<B>) -> &str {
    let origin = response.headers().get("idempotency-origin");
    origin.map_or("", |origin| origin.to_str().unwrap())
}

/// The members of a problem.
pub async fn problem(response: Response<Body>) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    serde_json::from_slice(&bytes(response).await).unwrap()
}

/// How often a handler was called.
#[derive(Clone, Default)]
pub struct Calls(Arc<AtomicUsize>);

impl Calls {
    pub fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A service whose answers are made by a function of the number of the call.
pub fn app<A, F>(layer: IdempotencyLayer, answer: F) -> (Router, Calls)
where
    A: IntoResponse,
    F: Fn(usize) -> A + Clone + Send + Sync + 'static,
{
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Bytes| {
        let answer = answer(counted.next()).into_response();
        async move { answer }
    };
    (Router::new().route("/orders", post(handler)).layer(layer), calls)
}

/// A service whose handler waits for a permit.
pub struct Gated {
    pub app: Router,
    pub calls: Calls,
    pub gate: Arc<Semaphore>,
    /// Notified by each call.
    pub begun: Arc<Notify>,
}

pub fn gated(layer: IdempotencyLayer) -> Gated {
    let (calls, gate, begun) = (Calls::default(), Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (counted, permits, tell) = (calls.clone(), Arc::clone(&gate), Arc::clone(&begun));
    let handler = move |_: Bytes| {
        let (call, permits, tell) = (counted.next(), Arc::clone(&permits), Arc::clone(&tell));
        async move {
            tell.notify_one();
            permits.acquire().await.unwrap().forget();
            format!("order {call}")
        }
    };
    let app = Router::new().route("/orders", post(handler)).layer(layer);
    Gated {
        app,
        calls,
        gate,
        begun,
    }
}

/// A body that must not be read.
pub fn unread() -> Body {
    let never = |_: &mut Context<'_>| -> Poll<Option<Result<Bytes, Infallible>>> { panic!("the body is read") };
    Body::from_stream(futures::stream::poll_fn(never))
}

/// Serves on a free port of the loopback interface, until the runtime ends.
pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Sends bytes as they are, and returns the connection.
pub async fn connect(address: SocketAddr, raw: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(raw.as_bytes()).await.unwrap();
    connection
}

/// Reads a response's head, up to and with the empty line.
pub async fn head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Returns the value of a header line in such a head.
pub fn line<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Posts over a connection of its own, and returns head and body of the answer.
pub async fn post_raw(address: SocketAddr, headers: &str, body: &str) -> (String, String) {
    let length = body.len();
    let raw = format!(
        "POST /orders HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    let mut connection = connect(address, &raw).await;
    let head = head(&mut connection).await;
    let mut body = String::new();
    connection.read_to_string(&mut body).await.unwrap();
    (head, body)
}
