//! What a key is for: one execution, and one answer, for those whose request it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::backend::{Backend, read, status, text, until};
use crate::client::{Raw, get, keyed, post};
use crate::proxy::{Home, Proxy};

/// Answers with a number of its own for each request that it executes, once it may.
async fn numbered(gate: Option<Arc<Semaphore>>) -> Backend {
    let count = Arc::new(AtomicUsize::new(0));
    Backend::by(move |request| {
        let number = count.fetch_add(1, SeqCst) + 1;
        let gate = gate.clone();
        async move {
            let body = read(request).await;
            if let Some(gate) = gate {
                gate.acquire().await.expect("open").forget();
            }
            status(201, &format!("order {number}: {body}"))
        }
    })
    .await
}

#[tokio::test]
async fn two_hundred_duplicates_are_one_execution() {
    let (home, gate) = (Home::new(), Arc::new(Semaphore::new(0)));
    let backend = numbered(Some(Arc::clone(&gate))).await;
    let proxy = Proxy::before(&home, backend.address, "");
    let all = join_all((0..200).map(|_| keyed(proxy.address, "a7f3", "tea")));
    let (all, ()) = tokio::join!(all, async {
        backend.reached(1).await;
        gate.add_permits(200);
    });
    for answer in &all {
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (201, "order 1: tea"));
    }
    assert_eq!(backend.count(), 1);
    let executed = all
        .iter()
        .filter(|answer| answer.header("idempotency-origin") == "executed")
        .count();
    assert_eq!(executed, 1);
    let again = keyed(proxy.address, "a7f3", "tea").await;
    assert_eq!(
        (again.header("idempotency-replayed"), again.text().as_str()),
        ("true", "order 1: tea")
    );
    assert_eq!(keyed(proxy.address, "a7f3", "coffee").await.status, 422);
    assert_eq!(backend.count(), 1);
    let name = |origin| format!("oneflight_requests_total{{route=\"*\",origin=\"{origin}\"}}");
    assert_eq!(proxy.metric(&name("executed")).await, 1.0);
    assert_eq!(
        proxy.metric(&name("collapsed")).await + proxy.metric(&name("replayed")).await,
        200.0
    );
}

#[tokio::test]
async fn a_request_without_a_key_is_executed_as_often_as_it_comes() {
    let (home, backend) = (Home::new(), numbered(None).await);
    let proxy = Proxy::before(&home, backend.address, "");
    for number in 1..=3 {
        let answer = post(proxy.address, "/orders", &[], "tea").await;
        assert_eq!(answer.text(), format!("order {number}: tea"));
        assert!(!answer.headers.contains_key("idempotency-origin"));
    }
    // Nor is one with a key whose method changes nothing.
    for _ in 0..2 {
        get(proxy.address, "/orders").await;
    }
    assert_eq!(backend.count(), 5);
}

#[tokio::test]
async fn two_users_with_one_key_never_get_each_others_answer() {
    let (home, backend) = (Home::new(), numbered(None).await);
    let routes = "[[route]]\npath = \"/by-cookie\"\nscope = \"cookie session\"\n\
                  [[route]]\npath = \"/by-both\"\nscope = [\"header X-Tenant\", \"cookie session\"]\n";
    let proxy = Proxy::before(&home, backend.address, routes);
    let as_user = |path, headers: Vec<(&'static str, &'static str)>| {
        let mut headers = headers;
        headers.push(("idempotency-key", "k"));
        let to = proxy.address;
        async move { post(to, path, &headers, "tea").await }
    };
    let anne = as_user("/by-cookie", vec![("cookie", "theme=dark; session=anne")]).await;
    let bob = as_user("/by-cookie", vec![("cookie", "session=bob; theme=dark")]).await;
    assert_ne!(anne.text(), bob.text());
    let again = as_user("/by-cookie", vec![("cookie", "session=anne")]).await;
    assert_eq!(
        (again.text(), again.header("idempotency-replayed")),
        (anne.text(), "true")
    );
    let executed = backend.count();
    for nobody in [
        vec![],
        vec![("cookie", "theme=dark")],
        vec![("cookie", "session=anne; session=bob")],
    ] {
        assert_eq!(as_user("/by-cookie", nobody).await.status, 403);
    }
    assert_eq!(as_user("/by-both", vec![("cookie", "session=anne")]).await.status, 403);
    assert_eq!(backend.count(), executed, "nothing was executed for nobody");
    let one = as_user("/by-both", vec![("x-tenant", "a"), ("cookie", "session=anne")]).await;
    let other = as_user("/by-both", vec![("x-tenant", "b"), ("cookie", "session=anne")]).await;
    assert_ne!(one.text(), other.text());

    // Where nobody has said who is who, credentials tell clients apart.
    let anne = as_user("/other", vec![("authorization", "Bearer anne")]).await;
    let bob = as_user("/other", vec![("authorization", "Bearer bob")]).await;
    assert_eq!((anne.status.as_u16(), bob.status.as_u16()), (201, 422));
    let written = std::fs::read(home.path().join("records.db")).expect("a store");
    let log = std::fs::read(home.path().join("records.db-wal")).unwrap_or_default();
    let holds = |what: &[u8]| {
        written
            .windows(what.len())
            .chain(log.windows(what.len()))
            .any(|part| part == what)
    };
    assert!(
        holds(b"everybody") && !holds(b"session=anne") && !holds(b"\x00anne"),
        "a session is no name in the store"
    );
}

#[tokio::test]
async fn an_execution_goes_on_when_its_client_hangs_up() {
    let (home, gate) = (Home::new(), Arc::new(Semaphore::new(0)));
    let backend = numbered(Some(Arc::clone(&gate))).await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("POST /orders HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: k\r\nContent-Length: 3\r\n\r\ntea")
        .await;
    backend.reached(1).await;
    drop(client);
    gate.add_permits(1);
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "order 1: tea");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_route_says_where_the_key_stands_and_whether_it_must() {
    let (home, backend) = (Home::new(), numbered(None).await);
    let routes = r#"
        [[route]]
        path = "/required"
        key = { required = "required", headers = "X-Request-Key", field = "order_key" }
        fingerprint = { leave-out = ["csrf"], json = "sorted" }
        [[route]]
        path = "/off"
        key.required = "off"
        [[route]]
        path = "/puts/{id}"
        methods = ["PUT", "DELETE"]
    "#;
    let proxy = Proxy::before(&home, backend.address, routes);
    let json = ("content-type", "application/json");
    assert_eq!(post(proxy.address, "/required", &[], "").await.status, 400);
    let by_field = post(
        proxy.address,
        "/required",
        &[json],
        r#"{"order_key":"k1","a":1,"csrf":"x"}"#,
    )
    .await;
    let by_alias = [json, ("x-request-key", "k1")];
    let again = post(
        proxy.address,
        "/required",
        &by_alias,
        r#"{"csrf":"y", "a":1, "order_key":"k1"}"#,
    )
    .await;
    assert_eq!(
        (again.text(), again.header("idempotency-replayed")),
        (by_field.text(), "true")
    );

    let key = [("idempotency-key", "k2")];
    let first = post(proxy.address, "/off", &key, "").await.text();
    assert_ne!(post(proxy.address, "/off", &key, "").await.text(), first);
    let put = |path| crate::client::send(proxy.address, "PUT", path, &key, "x");
    let first = put("/puts/1").await.text();
    assert_eq!(put("/puts/1").await.text(), first);
    assert_ne!(put("/puts/2").await.text(), first, "each path is a request of its own");
    let answers = "oneflight_proxy_requests_total{route=\"/puts/{id}\",class=\"2xx\"}";
    assert_eq!(proxy.metric(answers).await, 3.0, "routes are counted by their patterns");
}

#[tokio::test]
async fn a_route_says_which_answers_are_recorded() {
    let home = Home::new();
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::by(move |request| {
        let number = count.fetch_add(1, SeqCst);
        async move {
            let code = request
                .uri()
                .path()
                .rsplit('/')
                .next()
                .and_then(|code| code.parse().ok())
                .unwrap_or(500);
            let mut answer = status(code, &number.to_string());
            answer
                .headers_mut()
                .insert("set-cookie", "session=fresh".parse().expect("a value"));
            answer
        }
    })
    .await;
    let routes = r#"
        [[route]]
        path = "/successes/{code}"
        recording = "successes"
        [[route]]
        path = "/listed/{code}"
        statuses = { not-done = ["409", "502"], in-doubt = "5xx", recorded = ["503", "403"] }
        set-cookie = "outcome-only"
    "#;
    let proxy = Proxy::before(&home, backend.address, routes);
    let twice = async |path: &str| {
        let key = [("idempotency-key", "k")];
        let first = post(proxy.address, path, &key, "").await;
        let second = post(proxy.address, path, &key, "").await;
        (first, second)
    };
    for (path, is_recorded) in [
        ("/answers/201", true),
        ("/answers/404", true),
        ("/answers/500", true),
        ("/answers/502", true),
        ("/answers/503", false),
        ("/answers/429", false),
        ("/answers/401", false),
        ("/answers/403", true),
        ("/answers/407", false),
        ("/listed/403", true),
        ("/listed/401", false),
        ("/successes/201", true),
        ("/successes/404", false),
        ("/successes/502", false),
        ("/listed/409", false),
        ("/listed/502", false),
        ("/listed/404", true),
        ("/listed/503", true),
    ] {
        let (first, second) = twice(path).await;
        assert_eq!(first.status.as_str(), &path[path.len() - 3..], "{path}");
        assert_eq!(first.header("set-cookie"), "session=fresh", "{path}");
        assert_eq!(second.header("idempotency-replayed") == "true", is_recorded, "{path}");
        if is_recorded {
            assert!(!second.headers.contains_key("set-cookie"), "{path}");
            let is_whole = second.text() == first.text();
            assert_eq!(
                is_whole,
                !path.starts_with("/listed"),
                "{path}: one with a cookie is its outcome only"
            );
        }
    }
    for path in ["/answers/504", "/answers/408", "/listed/500"] {
        let (_, second) = twice(path).await;
        assert_eq!(second.status, 409, "{path} is in doubt");
    }
}

#[tokio::test]
async fn a_request_that_was_not_let_in_is_sent_again_with_other_credentials() {
    let home = Home::new();
    let executed = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&executed);
    let backend = Backend::by(move |request| {
        let token = request.headers().get("authorization").cloned();
        let is_fresh = token.is_some_and(|token| token == "Bearer fresh");
        let number = if is_fresh { counts.fetch_add(1, SeqCst) + 1 } else { 0 };
        async move {
            match number {
                0 => status(401, "the token has expired"),
                number => status(201, &format!("order {number}")),
            }
        }
    })
    .await;
    // Where nobody said whose a key is, a token is part of the request, and where it was said, it is not.
    let proxy = Proxy::before(
        &home,
        backend.address,
        "[[route]]\npath = \"/mine\"\nscope = \"header X-User\"",
    );
    for path in ["/mine", "/ours"] {
        let sent = async |token: &str| {
            let headers = [("idempotency-key", "k"), ("x-user", "anne"), ("authorization", token)];
            post(proxy.address, path, &headers, "tea").await
        };
        let before = executed.load(SeqCst);
        assert_eq!(sent("Bearer old").await.status, 401, "{path}");
        let first = sent("Bearer fresh").await;
        assert_eq!(first.status, 201, "{path}: {first:?}");
        let again = sent("Bearer fresh").await;
        assert_eq!(
            (again.text(), again.header("idempotency-replayed")),
            (first.text(), "true"),
            "{path}"
        );
        assert_eq!(executed.load(SeqCst), before + 1, "{path}");
    }
}

#[tokio::test]
async fn that_keys_are_shared_is_told_in_the_words_of_the_file() {
    let (home, backend) = (Home::new(), numbered(None).await);
    let routes = "[[route]]\npath = \"/orders\"\n[[route]]\npath = \"/mine\"\nscope = \"header X-User\"\n\
                  [[route]]\npath = \"/open\"\nscope = \"none\"";
    let proxy = Proxy::before(&home, backend.address, routes);
    let told = proxy.wait_for_line("have no `scope`");
    assert!(
        told.contains("routes=\"POST/PATCH on all paths without a route, POST/PATCH /orders\"")
            && told.contains("scope = \"header X-User\""),
        "{told}"
    );
    assert_eq!(proxy.told("unscoped"), 0);
    assert_eq!(proxy.told("have no `scope`"), 1);
}

#[tokio::test]
async fn an_answer_is_recorded_with_its_head_within_the_limit() {
    let (home, backend) = (Home::new(), numbered(None).await);
    let proxy = Proxy::before(&home, backend.address, "[[route]]\nlimits.record = \"1 KiB\"");
    for (size, is_kept) in [(900, true), (1010, false)] {
        let (key, body) = (size.to_string(), "x".repeat(size));
        let first = keyed(proxy.address, &key, &body).await;
        assert!(first.text().ends_with(&body));
        let again = keyed(proxy.address, &key, &body).await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.text() == first.text(), is_kept, "{size}");
    }
}

#[tokio::test]
async fn an_answer_that_streams_reaches_its_client_and_only_its_outcome_is_kept() {
    let home = Home::new();
    let backend = Backend::by(|_| async {
        let mut answer = text("data: 1\n\n");
        answer
            .headers_mut()
            .insert("content-type", "text/event-stream".parse().expect("a value"));
        answer
            .headers_mut()
            .insert("location", "/exports/1".parse().expect("a value"));
        answer
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    assert_eq!(keyed(proxy.address, "k", "x").await.text(), "data: 1\n\n");
    until(|| backend.count() == 1).await;
    let again = keyed(proxy.address, "k", "x").await;
    assert_eq!((again.status.as_u16(), again.header("location")), (200, "/exports/1"));
    assert!(!again.text().contains("data: 1"));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_route_for_one_method_leaves_the_others_as_they_are() {
    let key = [("idempotency-key", "k")];
    for routes in [
        "[[route]]\npath = \"/orders\"\nmethods = [\"PUT\"]",
        "[[route]]\nmethods = [\"PUT\"]",
        "[[route]]\npath = \"/orders\"\nmethods = [\"PUT\"]\n[[route]]\nmethods = [\"PATCH\"]",
    ] {
        let (home, backend) = (Home::new(), numbered(None).await);
        let proxy = Proxy::before(&home, backend.address, routes);
        for method in ["PUT", "POST", "PATCH"] {
            let send = || crate::client::send(proxy.address, method, "/orders", &key, "tea");
            let (first, second) = (send().await, send().await);
            assert_eq!(second.text(), first.text(), "{method}: {routes}");
            assert_eq!(second.header("idempotency-replayed"), "true", "{method}: {routes}");
        }
    }
    // What a route says of its own method counts there, and what one for all other paths says counts for the rest.
    let (home, backend) = (Home::new(), numbered(None).await);
    let routes = "[[route]]\npath = \"/orders\"\nmethods = [\"PUT\"]\n[[route]]\nkey.required = \"required\"";
    let proxy = Proxy::before(&home, backend.address, routes);
    assert_eq!(
        crate::client::send(proxy.address, "PUT", "/orders", &[], "")
            .await
            .status,
        201
    );
    assert_eq!(post(proxy.address, "/orders", &[], "").await.status, 400);
}

#[tokio::test]
async fn a_scope_that_changes_with_each_answer_is_told_once_and_counted() {
    let home = Home::new();
    let backend = Backend::by(|request| async move {
        let mut answer = text("ok");
        let session = match request.uri().path() {
            "/same" => "session=a; Path=/",
            "/gone" => "session=; Max-Age=0",
            _ => "session=b; Path=/",
        };
        answer
            .headers_mut()
            .insert("set-cookie", session.parse().expect("a value"));
        answer
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "[[route]]\nscope = \"cookie session\"");
    let changes = "oneflight_proxy_scope_changes_total{route=\"*\"}";
    for path in ["/same", "/gone"] {
        post(proxy.address, path, &[("cookie", "session=a")], "").await;
    }
    assert_eq!(proxy.metric(changes).await, 0.0);
    for _ in 0..2 {
        post(proxy.address, "/other", &[("cookie", "session=a")], "").await;
    }
    assert_eq!(proxy.metric(changes).await, 2.0);
    proxy.wait_for_line("sets the cookie of its scope");
    assert_eq!(proxy.told("sets the cookie of its scope"), 1);
}
