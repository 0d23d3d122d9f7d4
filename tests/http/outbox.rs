//! Promise 15: what the HTTP target sends, what an answer means, and where it does not go.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use oneflight::Message;
use oneflight::outbox::{Delivery, HttpTarget, HttpTargetError, Target, TraceParent, Verdict};
use parking_lot::Mutex;

/// A service that keeps keys as Stripe's API does: the first answer under a key is every later one's, and another body
/// under the same key is an error.
#[derive(Clone, Default)]
struct StandIn {
    keys: Arc<Mutex<HashMap<String, Bytes>>>,
    charges: Arc<Mutex<Vec<HeaderMap>>>,
}

async fn charge(State(service): State<StandIn>, headers: HeaderMap, body: Bytes) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let mut keys = service.keys.lock();
    match keys.get(&key) {
        Some(first) if *first == body => StatusCode::OK.into_response(),
        Some(_) => StatusCode::BAD_REQUEST.into_response(),
        None => {
            keys.insert(key, body);
            service.charges.lock().push(headers);
            StatusCode::OK.into_response()
        }
    }
}

async fn serve(service: StandIn) -> String {
    let answers = |status: u16| post(move || async move { StatusCode::from_u16(status).unwrap() });
    let busy = post(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")]) });
    let router = Router::new()
        .route("/charge", post(charge))
        .route("/busy", busy)
        .route("/gone", answers(410))
        .route("/wrong", answers(422))
        .route("/moved", post(|| async { Redirect::temporary("/charge") }))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn message(text: &str) -> Message {
    Message::text("charge", text).key("the key")
}

fn delivery(message: Message) -> Delivery {
    Delivery::to_test(message).unwrap()
}

#[tokio::test]
async fn a_message_that_comes_twice_charges_once_and_carries_its_ids() {
    let service = StandIn::default();
    let url = serve(service.clone()).await;
    let target = HttpTarget::new(&format!("{url}/charge"))
        .unwrap()
        .topic_header("X-Event-Type")
        .unwrap();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let delivery = delivery(
        message("7 EUR")
            .header("x-tenant", "seven")
            .correlation_id("edge-5f2c".parse().unwrap())
            .trace_parent(TraceParent::new(parent).unwrap()),
    );
    for _ in 0..2 {
        target.deliver(delivery.clone()).await.unwrap();
    }
    let charges = service.charges.lock();
    let [headers] = charges.as_slice() else {
        panic!("{} charges", charges.len())
    };
    for (name, value) in [
        ("idempotency-key", "the key"),
        ("webhook-id", "the key"),
        ("content-type", "text/plain; charset=utf-8"),
        ("x-correlation-id", "edge-5f2c"),
        ("traceparent", parent),
        ("x-tenant", "seven"),
        ("x-event-type", delivery.topic()),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("webhook-signature"));
    for name in ["no header", "Host", "content-length", "Idempotency-Key"] {
        let error = HttpTarget::new(&url).unwrap().topic_header(name).unwrap_err();
        assert!(matches!(error, HttpTargetError::Header), "{name}: {error}");
    }
}

#[tokio::test]
async fn two_secrets_make_two_signatures() {
    let service = StandIn::default();
    let url = serve(service.clone()).await;
    let target = HttpTarget::new(&format!("{url}/charge"))
        .unwrap()
        .secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .unwrap()
        .secret("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .unwrap();
    target.deliver(delivery(message("x"))).await.unwrap();
    let charges = service.charges.lock();
    let signatures: Vec<_> = charges[0]["webhook-signature"].to_str().unwrap().split(' ').collect();
    assert_eq!(signatures.len(), 2);
    assert!(signatures.iter().all(|it| it.starts_with("v1,") && it.len() == 47));
    assert!(
        charges[0]["webhook-timestamp"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1_700_000_000
    );
    assert!(!format!("{target:?}").contains("MfKQ"));
}

#[tokio::test]
async fn what_an_answer_means_is_a_policy() {
    let service = StandIn::default();
    let url = serve(service.clone()).await;
    let answer = async |path: &str| {
        let target = HttpTarget::new(&format!("{url}{path}")).unwrap();
        let error = target.deliver(delivery(message("x"))).await.unwrap_err();
        (error.is_final(), format!("{error:?}"))
    };
    let (is_final, told) = answer("/busy").await;
    assert!(!is_final && told.contains("7s"), "{told}");
    assert!(answer("/wrong").await.0);
    assert!(!answer("/moved").await.0);
    assert!(service.charges.lock().is_empty(), "a redirect was followed");
    let nobody = HttpTarget::new("http://127.0.0.1:1/").unwrap();
    assert!(!nobody.deliver(delivery(message("x"))).await.unwrap_err().is_final());
    let lenient = HttpTarget::new(&format!("{url}/wrong"))
        .unwrap()
        .policy(|_| Verdict::Delivered);
    lenient.deliver(delivery(message("x"))).await.unwrap();
}

#[tokio::test]
async fn what_is_gone_is_told_once_and_not_asked_again() {
    let url = serve(StandIn::default()).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let target = HttpTarget::new(&format!("{url}/gone"))
        .unwrap()
        .on_gone(move |url| tells.lock().push(url.to_owned()));
    for _ in 0..2 {
        assert!(target.deliver(delivery(message("x"))).await.unwrap_err().is_final());
    }
    assert_eq!(*told.lock(), [format!("{url}/gone")]);
}

#[tokio::test]
async fn a_url_of_a_user_does_not_lead_into_the_own_network() {
    let service = StandIn::default();
    let url = serve(service.clone()).await;
    let port = url.rsplit(':').next().unwrap();
    let target = HttpTarget::by_header("hook").unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
        "2130706433",
    ] {
        let message = message("x").header("hook", format!("http://{host}:{port}/charge"));
        let error = tokio::time::timeout(Duration::from_secs(20), target.deliver(delivery(message)))
            .await
            .unwrap();
        let error = error.unwrap_err();
        assert!(error.is_final(), "{host}: {error:?}");
    }
    for wrong in ["file:///etc/passwd", "nonsense"] {
        let message = message("x").header("hook", wrong);
        assert!(target.deliver(delivery(message)).await.unwrap_err().is_final());
    }
    assert!(target.deliver(delivery(message("x"))).await.unwrap_err().is_final());
    assert!(service.charges.lock().is_empty());
    let allowed = HttpTarget::by_header("hook").unwrap().allow_own_network().unwrap();
    allowed
        .deliver(delivery(message("x").header("hook", format!("{url}/charge"))))
        .await
        .unwrap();
    assert!(!service.charges.lock()[0].contains_key("hook"));
}

#[tokio::test]
async fn headers_of_the_connection_are_rejected() {
    let url = serve(StandIn::default()).await;
    let target = HttpTarget::new(&format!("{url}/charge")).unwrap();
    for name in ["Host", "content-length", "Transfer-Encoding", "two words"] {
        assert!(
            target
                .deliver(delivery(message("x").header(name, "1")))
                .await
                .unwrap_err()
                .is_final(),
            "{name}"
        );
    }
}

#[test]
fn a_message_that_would_expire_before_it_is_due_is_rejected() {
    let due = |at, until| {
        message("x")
            .not_before(Duration::from_secs(at))
            .expires_after(Duration::from_secs(until))
    };
    for (at, until) in [(3, 1), (3, 3)] {
        let error = Delivery::to_test(due(at, until)).unwrap_err();
        assert!(error.to_string().contains("expires_after has to be longer"), "{error}");
    }
    Delivery::to_test(due(1, 3)).unwrap();
}
