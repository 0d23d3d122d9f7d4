//! Promises 17 to 19 where an answer streams through: its own client gets it as it comes, and everybody else what they get without
//! that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use oneflight::http::kind;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Idempotency, MemoryStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

use crate::http::{Calls, bytes, connect, head, layer, layer_over, origin, problem, request, send, serve};
use crate::scripted::{Fault, Op, Scripted};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

type Pieces = UnboundedReceiver<io::Result<Frame<Bytes>>>;

/// A service whose answer is sent by the test.
struct Streaming {
    app: Router,
    calls: Calls,
    answer: UnboundedSender<io::Result<Frame<Bytes>>>,
}

fn streaming(layer: IdempotencyLayer, status: StatusCode, lines: &[(&str, &str)]) -> Streaming {
    let head = (status, headers(lines));
    let (answer, pieces) = unbounded();
    let (pieces, calls) = (Arc::new(Mutex::new(Some(pieces))), Calls::default());
    let counted = calls.clone();
    let handler = move |_: Bytes| {
        counted.next();
        let pieces: Pieces = pieces.lock().unwrap().take().expect("the handler is called once");
        let (status, lines) = head.clone();
        let answer = (status, lines, Body::new(StreamBody::new(pieces))).into_response();
        async move { answer }
    };
    // It is sent when the test wants.
    let layer = layer.answer_time(2 * LONG);
    let app = Router::new().route("/orders", post(handler)).layer(layer);
    Streaming { app, calls, answer }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let lines = lines.iter();
    lines
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

impl Streaming {
    fn sends(&self, piece: &'static str) {
        let frame = Frame::data(Bytes::from_static(piece.as_bytes()));
        self.answer.unbounded_send(Ok(frame)).unwrap();
    }

    fn ends(&self) {
        self.answer.close_channel();
    }

    async fn begins(&self) -> Response<Body> {
        let sent = timeout(LONG, send(&self.app, request("k", "tea"))).await;
        sent.expect("the answer begins")
    }
}

/// Returns the next piece of a body, or what it ends with.
async fn next(body: &mut Body) -> Option<Result<Bytes, String>> {
    let frame = timeout(LONG, body.frame()).await.expect("the body goes on")?;
    Some(
        frame
            .map(|frame| frame.into_data().unwrap())
            .map_err(|error| error.to_string()),
    )
}

fn piece(text: &'static str) -> Option<Result<Bytes, String>> {
    Some(Ok(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn its_own_client_gets_an_answer_as_it_comes_and_the_others_when_it_is_whole() {
    let streaming = streaming(layer().stream_through(), StatusCode::CREATED, &[("x-line", "1")]);
    let first = streaming.begins().await;
    assert_eq!((first.status(), origin(&first)), (StatusCode::CREATED, "executed"));
    assert_eq!(first.headers()["x-line"], "1");
    let mut body = first.into_body();
    for text in ["one, ", "two, "] {
        streaming.sends(text);
        assert_eq!(next(&mut body).await, piece(text));
    }
    let mut second = Box::pin(send(&streaming.app, request("k", "tea")));
    assert!((&mut second).now_or_never().is_none());
    streaming.sends("three");
    streaming.ends();
    assert_eq!(next(&mut body).await, piece("three"));
    assert_eq!(next(&mut body).await, None);
    for (response, expected) in [(second.await, "collapsed"), (streaming.begins().await, "replayed")] {
        assert_eq!((response.status(), origin(&response)), (StatusCode::CREATED, expected));
        assert_eq!(bytes(response).await, "one, two, three");
    }
    assert_eq!(streaming.calls.count(), 1);
}

#[tokio::test]
async fn without_the_option_an_answer_comes_as_a_whole() {
    let streaming = streaming(layer(), StatusCode::OK, &[]);
    let mut first = Box::pin(send(&streaming.app, request("k", "tea")));
    streaming.sends("one, ");
    while streaming.calls.count() == 0 {
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!((&mut first).now_or_never().is_none());
    streaming.sends("two");
    streaming.ends();
    assert_eq!(bytes(first.await).await, "one, two");
}

async fn read(connection: &mut TcpStream, bytes: usize) -> String {
    let mut read = vec![0; bytes];
    let all = timeout(LONG, connection.read_exact(&mut read)).await;
    all.expect("the body goes on").unwrap();
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_client_that_saw_the_end_of_an_answer_finds_it_replayed() {
    let store = Scripted::new();
    store.always(Op::Complete, Fault::LandsAfter(Duration::from_millis(300)));
    for length in [None, Some("8")] {
        let lines: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
        let key = length.unwrap_or("none");
        let streaming = streaming(layer_over(store.clone()).stream_through(), StatusCode::OK, &lines);
        let address = serve(streaming.app.clone()).await;
        let raw = format!(
            "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: {key}\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n"
        );
        let mut connection = connect(address, &raw).await;
        let head = head(&mut connection).await;
        assert!(head.contains("idempotency-origin: executed"), "{head}");
        let (one, two) = match length {
            None => ("4\r\none \r\n", "4\r\ntwo!\r\n0\r\n\r\n"),
            Some(_) => ("one ", "two!"),
        };
        streaming.sends("one ");
        assert_eq!(read(&mut connection, one.len()).await, one);
        streaming.sends("two!");
        streaming.ends();
        assert_eq!(read(&mut connection, two.len()).await, two);
        let again = send(&streaming.app, request(key, "")).await;
        assert_eq!(origin(&again), "replayed");
        assert_eq!(bytes(again).await, "one two!");
    }
}

#[tokio::test]
async fn an_answer_that_could_not_be_recorded_breaks_off_before_its_end() {
    for (lines, given) in [
        (vec![], &["one ", "two!"][..]),
        (vec![("content-length", "8")], &["one "]),
    ] {
        let store = Scripted::new();
        store.always(Op::Complete, Fault::Fails);
        let streaming = streaming(layer_over(store.clone()).stream_through(), StatusCode::OK, &lines);
        let mut body = streaming.begins().await.into_body();
        streaming.sends("one ");
        assert_eq!(next(&mut body).await, piece("one "));
        streaming.sends("two!");
        streaming.ends();
        for text in &given[1..] {
            assert_eq!(next(&mut body).await, piece(text));
        }
        let error = next(&mut body)
            .await
            .expect("no end")
            .expect_err("no more of the answer");
        assert!(
            error.contains("could not be recorded") || error.contains("store"),
            "{error}"
        );
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_what_is_recorded() {
    let streaming = streaming(layer().stream_through(), StatusCode::OK, &[]);
    let mut body = streaming.begins().await.into_body();
    streaming.sends("one, ");
    assert_eq!(next(&mut body).await, piece("one, "));
    drop(body);
    streaming.sends("two");
    streaming.ends();
    let again = streaming.begins().await;
    assert_ne!(origin(&again), "executed");
    assert_eq!(bytes(again).await, "one, two");
    assert_eq!(streaming.calls.count(), 1);
}

#[tokio::test]
async fn a_slow_client_holds_nobody_up_and_the_answer_is_held_once() {
    let streaming = streaming(layer().stream_through(), StatusCode::OK, &[]);
    let slow = streaming.begins().await.into_body();
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Box::pin(send(&streaming.app, request("k", "tea")));
        assert!((&mut other).now_or_never().is_none());
        others.push(other);
    }
    streaming.sends("one, ");
    streaming.sends("two, ");
    streaming.sends("three");
    streaming.ends();
    let answered = timeout(LONG, join_all(others))
        .await
        .expect("nobody waits for the slow one");
    let mut addresses = Vec::new();
    for answer in answered {
        assert_eq!(origin(&answer), "collapsed");
        addresses.push(bytes(answer).await);
    }
    addresses.push(slow.collect().await.unwrap().to_bytes());
    assert!(addresses.iter().all(|bytes| bytes == "one, two, three"));
    assert!(addresses.iter().all(|bytes| bytes.as_ptr() == addresses[0].as_ptr()));
}

#[tokio::test]
async fn trailers_come_at_the_end() {
    let streaming = streaming(layer().stream_through(), StatusCode::OK, &[]);
    let first = streaming.begins().await;
    streaming.sends("message");
    let trailers = [("grpc-status", "0"), ("server-timing", "db")];
    let trailers = headers(&trailers);
    streaming
        .answer
        .unbounded_send(Ok(Frame::trailers(trailers.clone())))
        .unwrap();
    streaming.ends();
    let first = first.into_body().collect().await.unwrap();
    assert_eq!(first.trailers(), Some(&trailers));
    assert_eq!(first.to_bytes(), "message");
    // What is of one client stays with it.
    let again = streaming.begins().await.into_body().collect().await.unwrap();
    assert_eq!(again.trailers().unwrap().len(), 1);
    assert_eq!(again.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_so_for_its_client_and_is_in_doubt() {
    let streaming = streaming(layer().stream_through(), StatusCode::OK, &[]);
    let mut body = streaming.begins().await.into_body();
    streaming.sends("row 1");
    assert_eq!(next(&mut body).await, piece("row 1"));
    let mut second = Box::pin(send(&streaming.app, request("k", "tea")));
    assert!((&mut second).now_or_never().is_none());
    streaming
        .answer
        .unbounded_send(Err(io::Error::other("row 2 is lost")))
        .unwrap();
    let error = next(&mut body)
        .await
        .expect("no end")
        .expect_err("no more of the answer");
    assert!(error.contains("row 2 is lost"), "{error}");
    assert_eq!(problem(second.await).await["type"], kind::OUTCOME_UNKNOWN);
    let again = streaming.begins().await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    assert_eq!(problem(again).await["type"], kind::IN_DOUBT);
    assert_eq!(streaming.calls.count(), 1);
}

#[tokio::test]
async fn what_is_behind_the_limit_is_read_as_fast_as_its_client_reads_and_only_the_outcome_is_recorded() {
    let (read, calls) = (Calls::default(), Calls::default());
    let (counted, called) = (read.clone(), calls.clone());
    let handler = move |_: Bytes| {
        called.next();
        let counted = counted.clone();
        let piece = move |_| {
            let counted = counted.clone();
            async move {
                tokio::task::yield_now().await;
                counted.next();
                Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 100]))
            }
        };
        let rows = futures::stream::iter(0..1000).then(piece);
        async move { (StatusCode::CREATED, [("location", "/rows")], Body::from_stream(rows)) }
    };
    let layer = layer().stream_through().max_answer_bytes(1000);
    let app = Router::new().route("/orders", post(handler)).layer(layer);
    let mut own = send(&app, request("k", "tea")).await.into_body();
    assert_eq!(next(&mut own).await.unwrap().unwrap()[..100], [b'x'; 100]);
    // The others have their answer, whether the first one reads on or not.
    let other = timeout(LONG, send(&app, request("k", "tea")))
        .await
        .expect("it waits for no one");
    assert_eq!(
        (other.status(), &other.headers()["location"]),
        (StatusCode::CREATED, &"/rows".parse().unwrap())
    );
    assert_eq!(problem(other).await["type"], kind::OUTCOME_ONLY);
    assert_eq!(read.count(), 11);
    // The first piece was looked at above.
    let rest = own.collect().await.unwrap().to_bytes();
    assert_eq!(read.count(), 1000);
    assert!(rest.len() >= 98_900 && rest.len() < 100_000, "{}", rest.len());
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn an_answer_that_is_there_at_once_is_recorded_before_its_head_goes_out() {
    let store = Scripted::new();
    store.always(Op::Complete, Fault::Fails);
    for answer in ["", "order 1"] {
        let (app, _) = crate::http::app(layer_over(store.clone()).stream_through(), move |_| answer);
        let first = send(&app, request(&format!("k{answer}").replace(' ', "-"), "tea")).await;
        assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn an_answer_that_says_not_now_streams_through_and_frees_the_key() {
    let streaming = streaming(layer().stream_through(), StatusCode::SERVICE_UNAVAILABLE, &[]);
    let first = streaming.begins().await;
    assert_eq!(
        (first.status(), origin(&first)),
        (StatusCode::SERVICE_UNAVAILABLE, "executed")
    );
    streaming.sends("later");
    streaming.ends();
    assert_eq!(bytes(first).await, "later");
    // The key is free: the handler is called, and has no other answer.
    let again = send(&streaming.app, request("k", "tea")).await;
    assert_eq!(
        (again.status(), streaming.calls.count()),
        (StatusCode::INTERNAL_SERVER_ERROR, 2)
    );
}

#[tokio::test]
async fn in_a_transaction_no_answer_goes_out_before_the_commit() {
    let store = Scripted::new();
    store.always(Op::End, Fault::Fails);
    let layer = IdempotencyLayer::transactional(Idempotency::builder(store).build());
    let streaming = streaming(layer.unscoped().stream_through(), StatusCode::OK, &[]);
    let mut first = Box::pin(send(&streaming.app, request("k", "tea")));
    streaming.sends("order 1");
    while streaming.calls.count() == 0 {
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!((&mut first).now_or_never().is_none());
    streaming.ends();
    assert_eq!(first.await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Sends a request to a tower service whose body is of this type, which waits for its end.
async fn has_begun<E>(answer: UnsyncBoxBody<Bytes, E>) -> bool
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let answer = Arc::new(Mutex::new(Some(answer)));
    let inner = tower::service_fn(move |_: Request<UnsyncBoxBody<Bytes, Infallible>>| {
        let answer = answer.lock().unwrap().take().unwrap();
        async move { Ok::<_, Infallible>(Response::new(answer)) }
    });
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let service = IdempotencyLayer::new(idem).unscoped().stream_through().layer(inner);
    let request = Request::post("/orders").header("idempotency-key", "k");
    let request = request.body(http_body_util::Empty::new().boxed_unsync()).unwrap();
    let mut sent = Box::pin(service.oneshot(request));
    for _ in 0..100 {
        if (&mut sent).now_or_never().is_some() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test]
async fn a_body_that_cannot_break_off_does_not_stream_through() {
    fn never<E: Send + 'static>() -> UnsyncBoxBody<Bytes, E> {
        StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, E>>()).boxed_unsync()
    }
    assert!(!has_begun(never::<Infallible>()).await);
    assert!(has_begun(never::<io::Error>()).await);
    assert!(has_begun(never::<Box<dyn std::error::Error + Send + Sync>>()).await);
}

#[tokio::test]
async fn its_own_client_is_told_the_length_that_the_handler_told() {
    let streaming = streaming(layer().stream_through(), StatusCode::OK, &[("content-length", "8")]);
    let first = streaming.begins().await;
    assert_eq!(first.headers()["content-length"], "8");
    streaming.sends("one two!");
    streaming.ends();
    let body = first.into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.collect().await.unwrap().to_bytes(), "one two!");
}
