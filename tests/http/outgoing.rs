//! Promises 17 and 20, for what a service sends itself: a request is repeated under one key until it is answered, as its server
//! asks for it, and carries the correlation id.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use oneflight::correlation::{self, CorrelationId};
use oneflight::http::{IDEMPOTENCY_KEY, OutgoingLayer, X_CORRELATION_ID, header_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

/// A server's answers in their order, and what came to it. The last answer is given for ever.
#[derive(Clone)]
struct Script(Arc<Mutex<Scripted>>);

struct Scripted {
    answers: VecDeque<Result<Response<()>, &'static str>>,
    seen: Vec<(Instant, HeaderMap)>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Response<()>, &'static str>>) -> Self {
        Self(Arc::new(Mutex::new(Scripted {
            answers: answers.into_iter().collect(),
            seen: Vec::new(),
        })))
    }

    fn statuses(statuses: &[u16]) -> Self {
        Self::new(statuses.iter().map(|status| Ok(status_of(*status))))
    }

    fn answer(&self, headers: &HeaderMap) -> Result<Response<()>, &'static str> {
        let mut scripted = self.0.lock().unwrap();
        scripted.seen.push((Instant::now(), headers.clone()));
        match scripted.answers.len() {
            1 => scripted.answers[0].clone(),
            _ => scripted.answers.pop_front().unwrap(),
        }
    }

    /// A client of this server, without a connection.
    fn client<B: Clone + Send + 'static>(
        &self,
        layer: OutgoingLayer,
    ) -> impl Service<Request<B>, Response = Response<()>, Error = &'static str, Future: Send> + Clone + use<B> {
        let script = self.clone();
        layer.layer(service_fn(move |request: Request<B>| {
            std::future::ready(script.answer(request.headers()))
        }))
    }

    /// A server at an address of the loopback.
    async fn listen(&self) -> SocketAddr {
        let script = self.clone();
        let app = Router::new().fallback(move |headers: HeaderMap| async move {
            script.answer(&headers).unwrap().map(|()| axum::body::Body::empty())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        address
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().seen.len()
    }

    /// The values of a header in each request that came.
    fn values(&self, name: http::HeaderName) -> Vec<Option<HeaderValue>> {
        let scripted = self.0.lock().unwrap();
        scripted
            .seen
            .iter()
            .map(|(_, headers)| headers.get(&name).cloned())
            .collect()
    }

    /// The time from each request to the next one.
    fn pauses(&self) -> Vec<Duration> {
        let scripted = self.0.lock().unwrap();
        scripted.seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

fn status_of(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

fn with(status: u16, headers: &[(http::HeaderName, &'static str)]) -> Result<Response<()>, &'static str> {
    let mut response = status_of(status);
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).uri("/charges").body(()).unwrap()
}

const QUICK: OutgoingLayer = OutgoingLayer::new().pauses(Duration::from_millis(2), Duration::from_millis(10));

/// The one key that all these requests carried.
fn the_key(keys: &[Option<HeaderValue>]) -> String {
    let key = keys[0].clone().expect("a key");
    assert!(keys.iter().all(|other| other.as_ref() == Some(&key)), "{keys:?}");
    // By the draft: a structured field's string.
    assert!(
        key.as_bytes().starts_with(b"\"") && key.as_bytes().ends_with(b"\""),
        "{key:?}"
    );
    let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, key)]);
    let key = header_key(&headers).unwrap().unwrap().as_str().to_owned();
    // A random UUID: one of version 4.
    assert_eq!((key.len(), &key[14..15]), (36, "4"), "{key}");
    key
}

#[tokio::test]
async fn all_tries_of_one_intent_carry_one_key_and_the_correlation_id() {
    let script = Script::statuses(&[503, 429, 201, 502, 504, 201]);
    let address = script.listen().await;
    let client = QUICK.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let charge = || {
        let uri = format!("http://{address}/charges");
        let request = Request::post(uri)
            .body(Full::new(Bytes::from_static(b"amount=700")))
            .unwrap();
        client.clone().oneshot(request)
    };
    let calls = async { [charge().await.unwrap().status(), charge().await.unwrap().status()] };
    let statuses = correlation::scope(CorrelationId::new("edge-5f2c").unwrap(), calls).await;
    assert_eq!(statuses, [StatusCode::CREATED; 2]);
    let keys = script.values(IDEMPOTENCY_KEY);
    assert_eq!(keys.len(), 6);
    assert_ne!(the_key(&keys[..3]), the_key(&keys[3..]));
    for id in script.values(X_CORRELATION_ID) {
        assert_eq!(id.unwrap(), "edge-5f2c");
    }
}

#[tokio::test]
async fn reqwests_client_sends_the_same_key_again_as_well() {
    let script = Script::statuses(&[503, 201]);
    let address = script.listen().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let client = QUICK.layer(http.clone());
    let request = http
        .post(format!("http://{address}/charges"))
        .body("amount=700")
        .build()
        .unwrap();
    let id = CorrelationId::new("edge-5f2c").unwrap();
    let response = correlation::scope(id, client.oneshot(request)).await.unwrap();
    assert_eq!(response.status(), 201);
    let keys = script.values(IDEMPOTENCY_KEY);
    assert_eq!(keys.len(), 2);
    the_key(&keys);
    assert_eq!(
        script.values(X_CORRELATION_ID),
        vec![Some(HeaderValue::from_static("edge-5f2c")); 2]
    );
}

#[tokio::test]
async fn a_body_that_can_be_read_once_is_sent_once() {
    let script = Script::statuses(&[503, 201]);
    let address = script.listen().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = reqwest::Body::wrap(Full::new(Bytes::from_static(b"amount=700")));
    let request = http
        .post(format!("http://{address}/charges"))
        .body(body)
        .build()
        .unwrap();
    let response = QUICK.layer(http).oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), script.count()), (503, 1));
    // Somebody outside may have another copy of the body.
    the_key(&script.values(IDEMPOTENCY_KEY));
}

/// A server that reads a request and hangs up, so often; then it answers. Returns what it has read.
async fn hangs_up(listener: TcpListener, times: usize) -> Vec<String> {
    let mut read = Vec::new();
    loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = connection.read(&mut request).await.unwrap();
        read.push(String::from_utf8_lossy(&request[..length]).into_owned());
        if read.len() > times {
            let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
            connection.write_all(answer).await.unwrap();
            return read;
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(hangs_up(listener, 2));
    let http = reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .build()
        .unwrap();
    let request = http
        .post(format!("http://{address}/charges"))
        .body("amount=700")
        .build()
        .unwrap();
    let response = QUICK.layer(http).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let keys: Vec<String> = server
        .await
        .unwrap()
        .iter()
        .map(|request| {
            let line = request.lines().find(|line| line.starts_with("idempotency-key: "));
            line.unwrap().to_owned()
        })
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn what_reqwest_cannot_send_is_not_tried_again() {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post("nonsense://127.0.0.1/").build().unwrap();
    let begun = Instant::now();
    let again = request.try_clone().unwrap();
    let error = OutgoingLayer::new()
        .layer(http.clone())
        .oneshot(request)
        .await
        .unwrap_err();
    assert!(error.is_builder(), "{error:?}");
    // In a box, as other layers have it.
    let boxed = OutgoingLayer::new().layer(http.map_err(tower::BoxError::from));
    let error = boxed.oneshot(again).await.unwrap_err();
    assert!(error.downcast::<reqwest::Error>().unwrap().is_builder());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_in_seconds_and_as_a_date() {
    let date = (DATE, "Fri, 31 Dec 1999 23:58:00 GMT");
    let script = Script::new([
        with(503, &[(RETRY_AFTER, "7")]),
        with(429, &[date.clone(), (RETRY_AFTER, "Fri, 31 Dec 1999 23:58:09 GMT")]),
        with(409, &[(RETRY_AFTER, "2")]),
        with(503, &[date, (RETRY_AFTER, "Fri, 31 Dec 1999 23:57:00 GMT")]),
        with(201, &[]),
    ]);
    let response = script
        .client(OutgoingLayer::new())
        .oneshot(request(Method::POST))
        .await
        .unwrap();
    assert_eq!(response.status(), 201);
    let pauses = script.pauses();
    // Not before, and a moment later, so that not all come at once.
    for (pause, [asked, at_most]) in pauses.iter().zip([[7_000, 100], [9_000, 200], [2_000, 400], [0, 800]]) {
        let (asked, at_most) = (Duration::from_millis(asked), Duration::from_millis(at_most));
        let moment = pause.checked_sub(asked).expect("it was not waited for");
        assert!(
            at_most / 2 <= moment && moment <= at_most + Duration::from_millis(2),
            "{pauses:?}"
        );
    }
    assert_eq!(pauses.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn pauses_become_longer_up_to_a_limit() {
    let script = Script::statuses(&[502]);
    let layer = OutgoingLayer::new()
        .max_tries(6)
        .pauses(Duration::from_millis(100), Duration::from_millis(500));
    let response = script.client(layer).oneshot(request(Method::POST)).await.unwrap();
    assert_eq!(response.status(), 502);
    let pauses = script.pauses();
    for (pause, whole) in pauses.iter().zip([100, 200, 400, 500, 500]) {
        // The clock of tokio counts whole milliseconds.
        let (pause, whole) = (pause.as_millis(), whole);
        assert!(whole / 2 <= pause && pause <= whole + 2, "{pauses:?}");
    }
    assert_eq!(pauses.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn tries_and_time_are_limited() {
    // By number.
    let script = Script::statuses(&[503]);
    for (most, made) in [(3, 3), (1, 1), (0, 1)] {
        let before = script.count();
        let client = script.client(OutgoingLayer::new().max_tries(most));
        assert_eq!(client.oneshot(request(Method::POST)).await.unwrap().status(), 503);
        assert_eq!(script.count() - before, made, "{most}");
    }
    // By time: no try begins after it.
    let script = Script::statuses(&[503]);
    let layer = OutgoingLayer::new().max_tries(u32::MAX).within(Duration::from_secs(20));
    let begun = Instant::now();
    assert_eq!(
        script
            .client(layer)
            .oneshot(request(Method::POST))
            .await
            .unwrap()
            .status(),
        503
    );
    assert!(begun.elapsed() <= Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(script.count() > 5);
    // What the server asks for takes longer than there is: its answer is returned at once.
    let script = Script::new([with(503, &[(RETRY_AFTER, "31")]), with(201, &[])]);
    let begun = Instant::now();
    assert_eq!(
        script
            .client(OutgoingLayer::new())
            .oneshot(request(Method::POST))
            .await
            .unwrap()
            .status(),
        503
    );
    assert_eq!((script.count(), begun.elapsed()), (1, Duration::ZERO));
    // No time at all is a limit as any other, and no limit is none.
    for (within, tries) in [(Duration::ZERO, 1), (Duration::MAX, 2)] {
        let script = Script::statuses(&[503, 201]);
        script
            .client(OutgoingLayer::new().within(within))
            .oneshot(request(Method::POST))
            .await
            .unwrap();
        assert_eq!(script.count(), tries, "{within:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_final_is_not_asked_for_again() {
    for status in [200, 201, 303, 400, 401, 403, 404, 409, 422, 500, 501] {
        let script = Script::statuses(&[status, 201]);
        let response = script
            .client(OutgoingLayer::new())
            .oneshot(request(Method::POST))
            .await
            .unwrap();
        assert_eq!((response.status().as_u16(), script.count()), (status, 1));
    }
    // No time can be read in it.
    let script = Script::new([with(409, &[(RETRY_AFTER, "soon")]), with(201, &[])]);
    let response = script
        .client(OutgoingLayer::new())
        .oneshot(request(Method::POST))
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), script.count()), (409, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_not_taken_for_one() {
    for lines in [&[""][..], &["a", "b"], &["a b"]] {
        let script = Script::statuses(&[503, 201]);
        let mut request = request(Method::POST);
        for line in lines {
            request
                .headers_mut()
                .append(IDEMPOTENCY_KEY, HeaderValue::from_static(line));
        }
        let response = script.client(OutgoingLayer::new()).oneshot(request).await.unwrap();
        assert_eq!((response.status().as_u16(), script.count()), (503, 1), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_on_record_is_final() {
    let script = Script::new([
        with(502, &[("idempotency-replayed".parse().unwrap(), "true")]),
        with(201, &[]),
    ]);
    let response = script
        .client(OutgoingLayer::new())
        .oneshot(request(Method::POST))
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), script.count()), (502, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_without_an_end_is_no_panic() {
    let layer = OutgoingLayer::new().pauses(Duration::MAX, Duration::MAX);
    let response = Script::statuses(&[503])
        .client(layer)
        .oneshot(request(Method::POST))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_connection_are_tried_again_and_the_last_one_is_returned() {
    let script = Script::new([Err("reset"), Err("refused"), with(201, &[])]);
    let response = script
        .client(OutgoingLayer::new())
        .oneshot(request(Method::PATCH))
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), script.count()), (201, 3));
    the_key(&script.values(IDEMPOTENCY_KEY));

    let script = Script::new([Err("reset"), Err("refused")]);
    let client = script.client(OutgoingLayer::new().max_tries(4));
    assert_eq!(client.oneshot(request(Method::POST)).await.unwrap_err(), "refused");
    assert_eq!(script.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_repeated_is_repeated_and_only_mutations_get_a_key() {
    let merge = Method::from_bytes(b"MERGE").unwrap();
    for (method, tries, key) in [
        (Method::GET, 2, false),
        (Method::HEAD, 2, false),
        (Method::OPTIONS, 2, false),
        (Method::PUT, 2, false),
        (Method::DELETE, 2, false),
        (Method::POST, 2, true),
        (Method::PATCH, 2, true),
        // Not known to be idempotent, and without a key.
        (merge.clone(), 1, false),
        (Method::CONNECT, 1, false),
    ] {
        let script = Script::statuses(&[503, 200]);
        script
            .client(OutgoingLayer::new())
            .oneshot(request(method.clone()))
            .await
            .unwrap();
        let keys = script.values(IDEMPOTENCY_KEY);
        assert_eq!(keys.len(), tries, "{method}");
        assert!(keys.iter().all(|value| value.is_some() == key), "{method}");
    }
    // With a key of the user's own, anything may.
    for method in [merge, Method::POST] {
        let script = Script::statuses(&[503, 200]);
        let mut request = request(method);
        let own = HeaderValue::from_static("order-17");
        request.headers_mut().insert(IDEMPOTENCY_KEY, own.clone());
        script.client(OutgoingLayer::new()).oneshot(request).await.unwrap();
        assert_eq!(script.values(IDEMPOTENCY_KEY), [Some(own.clone()), Some(own)]);
    }
}

#[tokio::test]
async fn a_correlation_id_is_passed_on_if_there_is_one_and_the_requests_own_counts() {
    let script = Script::statuses(&[200]);
    let client = || script.client::<()>(OutgoingLayer::new());
    client().oneshot(request(Method::GET)).await.unwrap();
    let id = || CorrelationId::new("edge-5f2c").unwrap();
    correlation::scope(id(), client().oneshot(request(Method::GET)))
        .await
        .unwrap();
    let mut own = request(Method::GET);
    own.headers_mut()
        .insert(X_CORRELATION_ID, HeaderValue::from_static("own"));
    correlation::scope(id(), client().oneshot(own)).await.unwrap();
    let sent: Vec<_> = script.values(X_CORRELATION_ID);
    assert_eq!(
        sent,
        [
            None,
            Some(HeaderValue::from_static("edge-5f2c")),
            Some(HeaderValue::from_static("own"))
        ]
    );
}

#[tokio::test]
async fn the_service_that_was_found_ready_is_the_one_that_is_called() {
    /// A service whose clones are not ready before they say so.
    #[derive(Default)]
    struct Picky(bool);
    impl Clone for Picky {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<()>> for Picky {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "it was not asked");
            std::future::ready(Ok(status_of(503)))
        }
    }
    let response = QUICK
        .layer(Picky::default())
        .oneshot(request(Method::POST))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
}
