//! A client of gRPC, by tonic, whose calls carry an `idempotency-key` as metadata: a call is executed once, and a replay has the
//! trailers in which gRPC says how it ended.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{self, HeaderMap};
use bytes::{Buf, BufMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use oneflight::http::layer::{Dialect, IdempotencyLayer, Outcome, Recording};
use oneflight::{Idempotency, MemoryStore};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tower::{Service, ServiceExt};

/// Messages that are text, without protobuf.
#[derive(Clone, Copy, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some).map_err(|_| Status::invalid_argument("not text"))
    }
}

/// The service `shop.Shop`: what is charged says how it ends.
#[derive(Clone, Default)]
struct Shop(Arc<AtomicUsize>);

impl NamedService for Shop {
    const NAME: &'static str = "shop.Shop";
}

impl Service<http::Request<tonic::body::Body>> for Shop {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let shop = self.clone();
        async move { Ok(tonic::server::Grpc::new(Text).unary(shop, request).await) }.boxed()
    }
}

impl UnaryService<String> for Shop {
    type Response = String;
    type Future = BoxFuture<'static, Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            match request.get_ref().as_str() {
                "declined" => Err(Status::failed_precondition(format!("declined by attempt {number}"))),
                "away" if number == 1 => Err(Status::unavailable("come back")),
                what => {
                    let mut charged = Response::new(format!("charged {what}, {number}"));
                    charged.metadata_mut().insert("charge", number.into());
                    Ok(charged)
                }
            }
        }
        .boxed()
    }
}

impl Shop {
    /// The service inside of a layer.
    fn within(&self, layer: IdempotencyLayer) -> Router {
        Routes::new(self.clone()).into_axum_router().layer(layer)
    }

    fn executions(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build()).unscoped()
}

/// gRPC says by a header or trailer of its own how a call ended. To HTTP, all of them are 200.
fn by_grpc_status() -> Recording {
    Recording::by(|answer| {
        let unavailable = Code::Unavailable as i32;
        match answer.headers.get("grpc-status") {
            Some(status) if status == unavailable.to_string().as_str() => Outcome::NothingDone,
            _ => Outcome::Record,
        }
    })
}

struct Client {
    channel: Channel,
    server: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Client {
    async fn of(app: Router) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let endpoint = endpoint.timeout(Duration::from_secs(60));
        Self {
            channel: endpoint.connect().await.unwrap(),
            server,
        }
    }

    async fn charge(&self, key: &'static str, what: &str) -> Result<Response<String>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(what.to_owned());
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        let path = http::uri::PathAndQuery::from_static("/shop.Shop/Charge");
        grpc.unary(request, path, Text).await
    }
}

#[tokio::test]
async fn a_call_that_is_made_again_gets_the_first_ones_message_and_metadata() {
    let shop = Shop::default();
    let client = Client::of(shop.within(layer())).await;
    let first = client.charge("order-7", "tea").await.unwrap();
    let again = client.charge("order-7", "tea").await.unwrap();
    let other = client.charge("order-8", "tea").await.unwrap();
    assert_eq!(first.get_ref(), "charged tea, 1");
    assert_eq!(again.get_ref(), "charged tea, 1");
    assert_eq!(other.get_ref(), "charged tea, 2");
    assert_eq!(again.metadata().get("charge").unwrap(), "1");
    assert_eq!(first.metadata().get("idempotency-replayed"), None);
    assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(shop.executions(), 2);
}

#[tokio::test]
async fn a_replay_has_the_trailers_of_the_first_answer() {
    let shop = Shop::default();
    let app = shop.within(layer());
    let call = || async {
        // No compression, five bytes: the frame of gRPC before the message.
        let request = http::Request::post("/shop.Shop/Charge").header("idempotency-key", "order-7");
        let request = request.header("content-type", "application/grpc");
        let request = request.body(Body::from(&b"\0\0\0\0\x03tea"[..])).unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        let read = answer.into_body().collect().await.unwrap();
        let trailers = read.trailers().cloned();
        (trailers, read.to_bytes())
    };
    let expected: (Option<HeaderMap>, Bytes) = (
        Some(
            [("grpc-status".parse().unwrap(), "0".parse().unwrap())]
                .into_iter()
                .collect(),
        ),
        Bytes::from_static(b"\0\0\0\0\x0echarged tea, 1"),
    );
    assert_eq!(call().await, expected);
    assert_eq!(call().await, expected);
    assert_eq!(shop.executions(), 1);
}

#[tokio::test]
async fn a_call_that_was_declined_is_declined_again_in_the_same_words() {
    let shop = Shop::default();
    let client = Client::of(shop.within(layer())).await;
    for _ in 0..2 {
        let declined = client.charge("order-7", "declined").await.unwrap_err();
        assert_eq!(declined.code(), Code::FailedPrecondition);
        assert_eq!(declined.message(), "declined by attempt 1");
    }
    assert_eq!(shop.executions(), 1);
}

#[tokio::test]
async fn a_call_that_was_not_carried_out_is_made_again() {
    let shop = Shop::default();
    let client = Client::of(shop.within(layer().recording(by_grpc_status()))).await;
    let away = client.charge("order-7", "away").await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    let made = client.charge("order-7", "away").await.unwrap();
    assert_eq!(made.get_ref(), "charged away, 2");
    let again = client.charge("order-7", "away").await.unwrap();
    assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(shop.executions(), 2);
}

#[tokio::test]
async fn a_key_with_another_message_is_an_invalid_argument() {
    let shop = Shop::default();
    let client = Client::of(shop.within(layer().dialect(Dialect::Grpc))).await;
    client.charge("order-7", "tea").await.unwrap();
    let other = client.charge("order-7", "coffee").await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
    assert!(other.message().contains("with another payload"), "{other}");
    assert_eq!(shop.executions(), 1);
}

#[tokio::test]
async fn without_its_dialect_a_problem_is_a_broken_answer_to_grpc() {
    let shop = Shop::default();
    let client = Client::of(shop.within(layer())).await;
    client.charge("order-7", "tea").await.unwrap();
    let other = client.charge("order-7", "coffee").await.unwrap_err();
    assert_eq!(other.code(), Code::Internal, "{other}");
    assert!(other.message().contains("422"), "{other}");
    assert_eq!(shop.executions(), 1);
}
