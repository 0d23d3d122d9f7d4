//! Promise 20: every request has a correlation id that can stand in a header, a log line and a database column; a layer
//! puts it wherever it is needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::poll_fn;
use std::task::Poll;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use oneflight::correlation;
use oneflight::http::{CorrelationId, CorrelationLayer, TRACEPARENT, X_CORRELATION_ID, X_REQUEST_ID};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};

fn of(name: &HeaderName, value: &[u8]) -> CorrelationId {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value).unwrap());
    CorrelationId::from_headers(&headers)
}

fn is_fresh(id: &CorrelationId) -> bool {
    let text = id.as_str();
    text.len() == 36 && text.as_bytes()[14] == b'4' && text.matches('-').count() == 4
}

#[test]
fn a_sane_inbound_id_is_kept() {
    assert_eq!(of(&X_REQUEST_ID, b"edge-5f2c").as_str(), "edge-5f2c");
    assert_eq!(of(&X_CORRELATION_ID, b"edge-5f2c").as_str(), "edge-5f2c");
    let longest = "x".repeat(CorrelationId::MAX_BYTES);
    assert_eq!(of(&X_REQUEST_ID, longest.as_bytes()).as_str(), longest);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let id = of(&TRACEPARENT, trace.as_bytes());
    assert_eq!(id.as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn the_first_usable_header_counts() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, HeaderValue::from_static(trace));
    headers.insert(X_REQUEST_ID, HeaderValue::from_static("request"));
    headers.insert(X_CORRELATION_ID, HeaderValue::from_static("correlation"));
    assert_eq!(CorrelationId::from_headers(&headers).as_str(), "correlation");
    headers.insert(X_CORRELATION_ID, HeaderValue::from_static("two words"));
    assert_eq!(CorrelationId::from_headers(&headers).as_str(), "request");
    headers.append(X_REQUEST_ID, HeaderValue::from_static("again"));
    assert_eq!(CorrelationId::from_headers(&headers).as_str(), &trace[3..35]);
    headers.append(TRACEPARENT, HeaderValue::from_static(trace));
    assert!(is_fresh(&CorrelationId::from_headers(&headers)));
}

#[test]
fn anything_else_is_replaced_by_a_new_one() {
    let too_long = "x".repeat(CorrelationId::MAX_BYTES + 1);
    for value in [&b""[..], b"two words", b"caf\xc3\xa9", b"a\tb", too_long.as_bytes()] {
        assert!(is_fresh(&of(&X_REQUEST_ID, value)), "{value:?}");
    }
    let mut headers = HeaderMap::new();
    headers.append(X_REQUEST_ID, HeaderValue::from_static("a"));
    headers.append(X_REQUEST_ID, HeaderValue::from_static("b"));
    assert!(is_fresh(&CorrelationId::from_headers(&headers)));
    assert_ne!(CorrelationId::random(), CorrelationId::random());
}

#[test]
fn a_traceparent_that_is_not_well_formed_counts_as_missing() {
    for value in [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ] {
        assert!(is_fresh(&of(&TRACEPARENT, value.as_bytes())), "{value}");
    }
}

/// Passes a request through the layer. Returns the response and what the handler saw: the task-local when the service was
/// called and after its future had waited, and the extension.
async fn pass(request: Request<()>, answer: Response<()>) -> (Response<()>, [Option<CorrelationId>; 3]) {
    let (sees, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<()>| {
        let (called, sees, answer) = (correlation::current(), sees.clone(), answer.clone());
        async move {
            tokio::task::yield_now().await;
            let extension = request.extensions().get().cloned();
            sees.send([called, correlation::current(), extension]).unwrap();
            Ok::<_, Infallible>(answer)
        }
    });
    let response = CorrelationLayer::new().layer(handler).oneshot(request).await.unwrap();
    assert_eq!(correlation::current(), None);
    (response, seen.recv().await.unwrap())
}

fn of_response(response: &Response<()>) -> [Vec<&str>; 2] {
    [X_CORRELATION_ID, X_REQUEST_ID].map(|name| {
        let values = response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    })
}

#[tokio::test]
async fn the_layer_puts_the_id_into_task_local_extensions_and_response() {
    let request = Request::get("/")
        .header(X_CORRELATION_ID, "edge-5f2c")
        .body(())
        .unwrap();
    let (response, seen) = pass(request, Response::new(())).await;
    for seen in seen {
        assert_eq!(seen.unwrap().as_str(), "edge-5f2c");
    }
    assert_eq!(of_response(&response), [vec!["edge-5f2c"], vec![]]);

    let (response, [called, polled, extension]) = pass(Request::new(()), Response::new(())).await;
    let id = called.unwrap();
    assert!(is_fresh(&id));
    assert_eq!([polled, extension], [Some(id.clone()), Some(id.clone())]);
    assert_eq!(of_response(&response), [vec![id.as_str()], vec![]]);
}

#[tokio::test]
async fn a_client_gets_its_own_request_id_back() {
    for (correlation, own, returned) in [
        (None, "own", "own"),
        (Some("edge-5f2c"), "own", "own"),
        (Some("edge-5f2c"), "two words", "edge-5f2c"),
    ] {
        let mut request = Request::get("/").header(X_REQUEST_ID, own);
        if let Some(correlation) = correlation {
            request = request.header(X_CORRELATION_ID, correlation);
        }
        let (response, _) = pass(request.body(()).unwrap(), Response::new(())).await;
        let expected = [vec![correlation.unwrap_or(own)], vec![returned]];
        assert_eq!(of_response(&response), expected, "{own}");
    }
}

#[tokio::test]
async fn a_response_that_was_recorded_for_another_request_gets_the_id_of_this_one() {
    let recorded = Response::builder()
        .header(X_CORRELATION_ID, "first")
        .header(X_REQUEST_ID, "set by the handler");
    let request = Request::get("/").header(X_REQUEST_ID, "second").body(()).unwrap();
    let (response, _) = pass(request, recorded.body(()).unwrap()).await;
    assert_eq!(of_response(&response), [vec!["second"], vec!["set by the handler"]]);
}

#[tokio::test]
async fn an_id_that_a_middleware_outside_has_set_is_kept() {
    let mut request = Request::get("/")
        .header(X_CORRELATION_ID, "edge-5f2c")
        .body(())
        .unwrap();
    request.extensions_mut().insert(CorrelationId::new("outer").unwrap());
    let (response, [called, ..]) = pass(request, Response::new(())).await;
    assert_eq!(called.unwrap().as_str(), "outer");
    assert_eq!(of_response(&response), [vec!["outer"], vec![]]);
}

#[tokio::test]
async fn requests_that_are_handled_at_once_keep_apart() {
    let service = service_fn(async |_: Request<()>| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(correlation::current()))
    });
    let mut service = CorrelationLayer::new().layer(service);
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let id = number.to_string();
            let request = Request::get("/").header(X_CORRELATION_ID, &id).body(()).unwrap();
            let mut call = Box::pin(service.call(request));
            async move {
                (
                    id,
                    poll_fn(|cx| call.as_mut().poll(cx))
                        .await
                        .unwrap()
                        .into_body()
                        .unwrap()
                        .to_string(),
                )
            }
        })
        .collect();
    for (sent, seen) in futures::future::join_all(calls).await {
        assert_eq!(sent, seen);
    }
}

#[tokio::test]
async fn an_error_of_the_service_goes_through() {
    let mut ready = false;
    let service = tower::util::service_fn(|_: Request<()>| async { Err::<Response<()>, _>("gone") });
    let mut service = CorrelationLayer::new().layer(service);
    poll_fn(|cx| {
        ready = Service::<Request<()>>::poll_ready(&mut service, cx).is_ready();
        Poll::Ready(())
    })
    .await;
    assert!(ready);
    assert_eq!(service.call(Request::new(())).await.unwrap_err(), "gone");
}

proptest! {
    #[test]
    fn whatever_comes_in_the_id_can_be_sent_on(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, value.clone());
            headers.insert(TRACEPARENT, value);
            let id = CorrelationId::from_headers(&headers);
            let value = id.to_header_value();
            prop_assert_eq!(value.as_bytes(), id.as_str().as_bytes());
        }
    }
}
