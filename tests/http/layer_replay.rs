//! Promises 17 to 19: what the first request is answered, and what each later one gets of that, by section 2.6 of the draft and
//! by RFC 9110. `docs/http.md` has a row for each requirement, with the name of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use futures::{StreamExt, join};
use oneflight::MemoryStore;
use oneflight::http::kind;
use oneflight::http::layer::{Cookies, Outcome, Recording};
use oneflight::store::{Erase, RecordQuery, Upkeep};

use crate::http::{app, bytes, gated, keyless, layer, layer_over, origin, problem, request, send};

/// The lines of a head, without those that the layer adds.
fn lines(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let lines = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    lines.filter(|(name, _)| !name.starts_with("idempotency-")).collect()
}

#[tokio::test]
async fn a_first_request_gets_the_answer_of_its_handler() {
    let answer = |_| {
        let lines = [
            ("set-cookie", "a=1"),
            ("date", "then"),
            ("x-line", "1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-line", "2"),
            ("access-control-allow-origin", "*"),
            ("set-cookie", "b=2"),
        ];
        (StatusCode::CREATED, AppendHeaders(lines), "order")
    };
    let (covered, _) = app(layer(), answer);
    let first = send(&covered, request("k", "tea")).await;
    // What it gets without the layer's doing, since it has no key.
    let plain = send(&covered, keyless("tea")).await;
    assert_eq!(
        (first.status(), plain.status()),
        (StatusCode::CREATED, StatusCode::CREATED)
    );
    assert_eq!(lines(first.headers()), lines(plain.headers()));
    let added = first
        .headers()
        .keys()
        .filter(|name| name.as_str().starts_with("idempotency-"));
    assert_eq!(added.collect::<Vec<_>>(), ["idempotency-origin"]);
    assert_eq!(origin(&first), "executed");
    assert_eq!(bytes(first).await, "order");
}

#[tokio::test]
async fn a_retry_gets_the_recorded_answer_and_is_marked() {
    let (app, calls) = app(layer(), |call| {
        let lines = [("content-type", "image/png"), ("etag", "\"1\"")];
        (StatusCode::CREATED, lines, [0, 159, 146, call as u8].to_vec())
    });
    for expected in ["executed", "replayed", "replayed"] {
        let response = send(&app, request("k", "tea")).await;
        assert_eq!((response.status(), origin(&response)), (StatusCode::CREATED, expected));
        let marks =
            ["idempotency-replayed", "idempotency-original-date"].map(|name| response.headers().get(name).cloned());
        match expected {
            "replayed" => assert_eq!(marks[0].as_ref().unwrap(), "true"),
            _ => assert_eq!(marks, [None, None]),
        }
        let kept = ["content-type", "etag"].map(|name| response.headers()[name].to_str().unwrap());
        assert_eq!(kept, ["image/png", "\"1\""]);
        assert_eq!(bytes(response).await, vec![0, 159, 146, 1]);
    }
    assert_eq!(calls.count(), 1);
}

/// Sends the same twice, and returns whether it was executed twice.
async fn runs_again(recording: Recording, status: u16) -> bool {
    let status = StatusCode::from_u16(status).unwrap();
    let (app, calls) = app(layer().recording(recording), move |call| {
        (status, [("retry-after", "7")], call.to_string())
    });
    for _ in 0..2 {
        let response = send(&app, request("k", "tea")).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(bytes(response).await, calls.count().to_string());
    }
    calls.count() == 2
}

#[tokio::test]
async fn a_recorded_error_is_replayed_too() {
    for status in [400, 402, 404, 409, 422, 500, 502] {
        assert!(!runs_again(Recording::answers(), status).await, "{status}");
    }
}

#[tokio::test]
async fn answers_that_say_not_now_are_not_recorded() {
    for status in [425, 429, 503] {
        assert!(runs_again(Recording::answers(), status).await, "{status}");
    }
}

#[tokio::test]
async fn the_policy_successes_runs_a_failure_again() {
    for status in [200, 201, 303] {
        assert!(!runs_again(Recording::successes(), status).await, "{status}");
    }
    for status in [400, 404, 409, 422, 425, 429, 500, 503] {
        assert!(runs_again(Recording::successes(), status).await, "{status}");
    }
    // The function of a service decides as it likes.
    assert!(runs_again(Recording::by(|_| Outcome::NothingDone), 200).await);
    assert!(!runs_again(Recording::by(|_| Outcome::Record), 503).await);
}

/// An answer whose body nobody keeps.
fn unkept(case: &'static str) -> Response {
    let piece = |text: &str| Ok::<_, std::io::Error>(Bytes::from(text.to_owned()));
    let location = [("location", "/orders/1")];
    let answer: Response = match case {
        "too large to record" => (location, "hidden".repeat(100_000)).into_response(),
        "too large to share" => {
            let pieces = (0..1000).map(move |_| piece(&"hidden".repeat(1000)));
            (location, Body::from_stream(futures::stream::iter(pieces))).into_response()
        }
        "events" => {
            let stream = futures::stream::iter([piece("data: hidden\n\n")]);
            (
                location,
                [("content-type", "text/event-stream; charset=utf-8")],
                Body::from_stream(stream),
            )
                .into_response()
        }
        "a stream without an end" => {
            let stream = futures::stream::iter([piece("hidden")]).chain(futures::stream::pending());
            (location, Body::from_stream(stream)).into_response()
        }
        "secret" => (location, Outcome::OutcomeOnly, "hidden").into_response(),
        _ => (location, [("set-cookie", "hidden=1")], "hidden").into_response(),
    };
    (StatusCode::CREATED, answer).into_response()
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_replayed_as_an_outcome() {
    for case in [
        "too large to record",
        "too large to share",
        "events",
        "a stream without an end",
        "secret",
        "with a cookie",
    ] {
        let layer = layer().cookies(Cookies::OutcomeOnly);
        let (app, calls) = app(layer, move |_| unkept(case));
        let first = send(&app, request("k", "tea")).await;
        assert_eq!(
            (first.status(), origin(&first)),
            (StatusCode::CREATED, "executed"),
            "{case}"
        );
        let began = first.into_body().into_data_stream().next().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&began).contains("hidden"), "{case}");

        let again = send(&app, request("k", "tea")).await;
        assert_eq!(
            (again.status(), origin(&again)),
            (StatusCode::CREATED, "replayed"),
            "{case}"
        );
        assert_eq!(again.headers()["location"], "/orders/1", "{case}");
        let told = problem(again).await;
        assert_eq!(
            (&told["type"], &told["status"]),
            (&kind::OUTCOME_ONLY.into(), &201.into()),
            "{case}"
        );
        assert!(!told.to_string().contains("hidden"), "{case}");
        assert_eq!(calls.count(), 1, "{case}");
    }
}

#[tokio::test]
async fn what_was_erased_is_replayed_as_an_outcome_that_claims_no_other_reason() {
    let store = MemoryStore::new();
    let answer = |_| (StatusCode::CREATED, [("location", "/orders/alice")], "hidden");
    let (app, calls) = app(layer_over(store.clone()), answer);
    assert_eq!(send(&app, request("k", "tea")).await.status(), StatusCode::CREATED);
    let page = store.records(RecordQuery::all(1)).await.unwrap();
    let entry = &page.entries[0];
    let erased = store.erase_one(&entry.id, entry.record.token, Erase::Answers).await;
    assert!(erased.unwrap());

    let again = send(&app, request("k", "tea")).await;
    assert_eq!((again.status(), origin(&again)), (StatusCode::CREATED, "replayed"));
    // Where the result is may tell whose it is.
    assert!(!again.headers().contains_key("location"));
    let told = problem(again).await;
    assert_eq!(told["type"], kind::OUTCOME_ONLY);
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("or was erased since"), "{detail}");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_duplicate_in_flight_waits_and_shares_the_answer() {
    let shop = gated(layer());
    let (first, ()) = join!(send(&shop.app, request("k", "tea")), async {
        shop.begun.notified().await;
        let duplicate = send(&shop.app, request("k", "tea"));
        let mut duplicate = std::pin::pin!(duplicate);
        assert!(futures::poll!(&mut duplicate).is_pending());
        shop.gate.add_permits(1);
        let response = duplicate.await;
        assert_eq!((response.status(), origin(&response)), (StatusCode::OK, "collapsed"));
        assert!(!response.headers().contains_key("idempotency-replayed"));
        assert_eq!(bytes(response).await, "order 1");
    });
    assert_eq!(origin(&first), "executed");
    assert_eq!(bytes(first).await, "order 1");
    assert_eq!(shop.calls.count(), 1);
}

#[tokio::test]
async fn with_a_wait_of_zero_a_duplicate_in_flight_is_a_409() {
    let shop = gated(layer().wait(Duration::ZERO));
    let (first, ()) = join!(send(&shop.app, request("k", "tea")), async {
        shop.begun.notified().await;
        let duplicate = send(&shop.app, request("k", "tea")).await;
        assert_eq!(duplicate.status(), StatusCode::CONFLICT);
        assert_eq!(duplicate.headers()["retry-after"], "1");
        assert_eq!(problem(duplicate).await["type"], kind::IN_PROGRESS);
        shop.gate.add_permits(1);
    });
    assert_eq!(bytes(first).await, "order 1");
    let again = send(&shop.app, request("k", "tea")).await;
    assert_eq!((origin(&again), again.status()), ("replayed", StatusCode::OK));
    assert_eq!(shop.calls.count(), 1);
}
