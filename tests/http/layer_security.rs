//! Promise 18: who gets which answer, and what is refused before anything is asked or read: section 5 of the draft.
//! `docs/http.md` has a row for each requirement, with the name of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::routing::any;
use oneflight::Scope;
use oneflight::http::{KeySource, Problem, kind};

use crate::http::{
    Calls, User, app, by, bytes, keyless, layer, layer_over, of_user, origin, problem, request, send, unread,
};
use crate::scripted::{Op, Scripted};

#[tokio::test]
async fn a_guessed_key_of_another_tenant_gets_nothing_of_its_answer() {
    let (app, calls) = app(of_user(layer()), |call| format!("secret {call}"));
    let ask = async |tenant, user, body| send(&app, by(User(tenant, user), request("guessed", body))).await;
    assert_eq!(bytes(ask("us", "ann", "tea").await).await, "secret 1");
    // Names that are made to look like another scope are none.
    for (number, (tenant, user)) in (2..).zip([
        ("them", "ann"),
        ("us", "eve"),
        ("us|user=ann", "ann"),
        ("us%7Cuser=ann", "ann"),
        ("us", "ann|route=POST /orders"),
        ("everybody", "ann"),
    ]) {
        let response = ask(tenant, user, "tea").await;
        assert_eq!(origin(&response), "executed", "{tenant} {user}");
        assert_eq!(bytes(response).await, format!("secret {number}"));
        // Not even a conflict tells that the key is in use.
        let response = ask(tenant, user, "coffee").await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(bytes(ask("us", "ann", "tea").await).await, "secret 1");
    assert_eq!(calls.count(), 7);
}

#[tokio::test]
async fn a_request_without_a_clear_principal_is_not_executed() {
    let store = Scripted::new();
    let layer = layer_over(store.clone()).scope(|request| {
        let mut names = request.headers.get_all("x-tenant").iter();
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(Scope::new(name.to_str().unwrap_or_default())),
            (None, _) => Err(Problem::principal_missing()),
            _ => Err(Problem::new(StatusCode::FORBIDDEN).with_title("Two tenants")),
        }
    });
    let (app, calls) = app(layer, |_| "done");
    let ask = async |tenants: &[&str], body: Body| {
        let mut request = request("k", body);
        for tenant in tenants {
            request.headers_mut().append("x-tenant", tenant.parse().unwrap());
        }
        send(&app, request).await
    };
    for (tenants, type_uri) in [
        (&[][..], kind::PRINCIPAL_MISSING),
        (&["us", "them"], "about:blank"),
        (&[""], kind::PRINCIPAL_MISSING),
    ] {
        // The head shows it: nothing is read for such a request.
        let refused = ask(tenants, unread()).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{tenants:?}");
        assert_eq!(problem(refused).await["type"], type_uri);
    }
    assert_eq!(
        (calls.count(), store.calls(Op::Claim), store.calls(Op::Load)),
        (0, 0, 0)
    );
    assert_eq!(ask(&["us"], Body::from("tea")).await.status(), StatusCode::OK);
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_key_is_validated_before_the_store_is_asked() {
    let store = Scripted::new();
    let keys = KeySource::new().max_bytes(36).alphabet(|character| character != '_');
    let (app, calls) = app(layer_over(store.clone()).keys(keys), |_| "done");
    let asked = || {
        [Op::Claim, Op::Load, Op::Watch]
            .map(|op| store.calls(op))
            .iter()
            .sum::<usize>()
    };
    let (long, huge) = ("k".repeat(37), "k".repeat(1 << 20));
    for key in [
        "", "\"\"", "a, b", "\"a", "\"a\\n\"", "a b", "a_b", "\"a_b\"", &long, &huge,
    ] {
        let refused = send(&app, request(key, "tea")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{key:.40}");
    }
    assert_eq!((asked(), calls.count()), (0, 0));
    assert_eq!(
        send(&app, request(&"k".repeat(36), "tea")).await.status(),
        StatusCode::OK
    );
    assert!(asked() > 0);
}

#[tokio::test]
async fn a_safe_method_passes_whatever_key_it_carries() {
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Request| {
        counted.next();
        async { "done" }
    };
    let app = Router::new().route("/orders", any(handler)).layer(layer().required());
    let methods = ["OPTIONS", "HEAD", "GET", "PUT", "DELETE"];
    for method in methods {
        for key in ["k", "k", "no, key"] {
            let request = Request::builder().method(method).uri("/orders");
            let response = send(&app, request.header("idempotency-key", key).body(unread()).unwrap()).await;
            assert_eq!((response.status(), origin(&response)), (StatusCode::OK, ""), "{method}");
        }
    }
    assert_eq!(calls.count(), methods.len() * 3);

    let covered = layer().methods([Method::POST, Method::PUT]);
    let app = Router::new().route("/orders", any(|| async { "done" })).layer(covered);
    for expected in ["executed", "replayed"] {
        let put = Request::put("/orders")
            .header("idempotency-key", "k")
            .body(Body::empty());
        assert_eq!(origin(&send(&app, put.unwrap()).await), expected);
    }
    assert_eq!(origin(&send(&app, keyless("tea")).await), "");
}
