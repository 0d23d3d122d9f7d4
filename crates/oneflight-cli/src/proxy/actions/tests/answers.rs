//! What is recorded of the answers of Next 16 and 15.5, and what each who asks gets of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use oneflight::http::layer::{FromBody, Recording};
use tower::{Layer, ServiceExt};

use super::wire::{BEGUN, Fields, OK, PLACE, fetch, fetch_form, head, layer, plain_form, raw, site, site_with};
use crate::proxy::body::{Body, BoxError};

const ORDER: Fields<'_> = &[("key", "k"), ("item", "tea")];
const PAYLOAD: (&str, &str) = ("content-type", "text/x-component");
const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");
const TEXT: (&str, &str) = ("content-type", "text/plain");
const DONE: &str = "/?intent=k&order=1;push";

fn by_script() -> Request<Body> {
    fetch_form(PLACE, "b", "\"$undefined\"", ORDER)
}

fn by_form() -> Request<Body> {
    plain_form(PLACE, "b", "\"$undefined\"", ORDER)
}

fn pages() -> (&'static str, &'static str) {
    (
        "cache-control",
        "private, no-cache, no-store, max-age=0, must-revalidate",
    )
}

/// A redirect of an action's, to a script: of 16 and of 15.5. Both have the page it leads to.
fn redirects() -> Vec<Response<()>> {
    let lines = [
        ("x-action-redirect", DONE),
        ("x-action-revalidated", "1"),
        PAYLOAD,
        pages(),
    ];
    vec![
        head(200, &lines),
        head(
            303,
            &[
                ("x-action-redirect", DONE),
                ("x-action-revalidated", "[[],1,0]"),
                PAYLOAD,
                pages(),
            ],
        ),
    ]
}

#[tokio::test]
async fn an_answer_is_replayed_as_next_gave_it() {
    for first in redirects() {
        let site = site(vec![(first.clone(), "0:page of ada")]);
        for expected in ["executed", "replayed"] {
            let seen = site.send(by_script()).await;
            assert_eq!(
                (seen.status, seen.line("idempotency-origin")),
                (first.status().as_u16(), expected)
            );
            assert_eq!(
                (seen.line("x-action-redirect"), seen.body.as_str()),
                (DONE, "0:page of ada")
            );
            assert_eq!(
                seen.line("x-action-revalidated"),
                first.headers()["x-action-revalidated"]
            );
            // A script would follow it.
            assert_eq!(seen.line("location"), "");
        }
        assert_eq!(site.backend.count(), 1);
    }
    let site = site(vec![(head(303, &[("location", "/?intent=k&order=1"), BEGUN]), "")]);
    for expected in ["executed", "replayed"] {
        let seen = site.send(by_form()).await;
        assert_eq!((seen.status, seen.line("idempotency-origin")), (303, expected));
        assert_eq!(seen.line("location"), "/?intent=k&order=1");
    }
    assert_eq!(site.backend.count(), 1);
}

#[tokio::test]
async fn a_form_whose_intent_a_script_has_sent_gets_what_a_browser_reads() {
    for first in redirects() {
        let site = site(vec![(first, "0:page of ada")]);
        site.send(by_script()).await;
        let seen = site.send(by_form()).await;
        assert_eq!(
            (seen.status, seen.line("location"), seen.body.as_str()),
            (303, "/?intent=k&order=1", "")
        );
        assert_eq!((seen.line("x-action-redirect"), site.backend.count()), ("", 1));
    }
    // A state is a payload: the page shows what is.
    let returned = site(vec![(head(OK, &[PAYLOAD, BEGUN]), "1:{\"code\":\"Invalid\"}")]);
    returned.send(by_script()).await;
    let seen = returned.send(by_form()).await;
    assert_eq!(
        (seen.status, seen.line("location"), seen.body.as_str()),
        (303, "/?intent=k", "")
    );
    let threw = site(vec![(head(500, &[PAYLOAD, BEGUN]), "1:E{\"digest\":\"1\"}")]);
    threw.send(by_script()).await;
    let seen = threw.send(by_form()).await;
    assert_eq!(
        (seen.status, seen.line("content-type")),
        (500, "text/html; charset=utf-8")
    );
    assert!(
        seen.body.contains("data-problem=\"FAILED\"") && !seen.body.contains("digest"),
        "{}",
        seen.body
    );
    assert!(seen.body.contains("href=\"/?intent=k\""), "{}", seen.body);
    assert_eq!((returned.backend.count(), threw.backend.count()), (1, 1));
}

#[tokio::test]
async fn a_script_whose_intent_was_sent_as_a_form_gets_what_next_reads() {
    for (first, status, to) in [
        (head(303, &[("location", "/?intent=k&order=1"), BEGUN]), OK, DONE),
        (head(OK, &[HTML, pages()]), OK, "/?intent=k;replace"),
        (head(500, &[TEXT, BEGUN]), 500, ""),
    ] {
        let site = site(vec![(first, "<p>page of ada")]);
        site.send(by_form()).await;
        let seen = site.send(by_script()).await;
        assert_eq!((seen.status, seen.line("x-action-redirect")), (status, to));
        assert_eq!((seen.line("content-type"), seen.line("location")), ("text/plain", ""));
        assert!(!seen.body.contains("page of ada"), "{}", seen.body);
        assert_eq!(seen.body.is_empty(), status == OK);
        assert_eq!(site.backend.count(), 1);
    }
}

#[tokio::test]
async fn what_is_answered_before_the_action_frees_the_key() {
    const NOT_FOUND: (&str, &str) = ("x-nextjs-action-not-found", "1");
    for (answer, request) in [
        // No such action: 16, 15.5, and what is no id.
        (head(409, &[NOT_FOUND, TEXT, BEGUN]), by_script as fn() -> Request<Body>),
        (head(404, &[NOT_FOUND, TEXT, BEGUN]), by_script),
        (head(400, &[NOT_FOUND, TEXT, BEGUN]), by_script),
        (head(409, &[NOT_FOUND, TEXT, BEGUN]), by_form),
        (head(413, &[TEXT]), by_script),
        (head(413, &[HTML]), by_form),
        // The check of `Origin`.
        (head(500, &[PAYLOAD, pages()]), by_script),
        (head(500, &[TEXT]), by_form),
        (head(500, &[HTML, pages()]), by_form),
        // A middleware.
        (head(307, &[("location", "/login")]), by_script),
        (head(303, &[("location", "/login")]), by_form),
        (head(401, &[HTML]), by_form),
    ] {
        let status = answer.status().as_u16();
        let site = site(vec![(answer, "before"), (head(OK, &[PAYLOAD, BEGUN]), "after")]);
        let first = site.send(request()).await;
        assert_eq!((first.status, first.body.as_str()), (status, "before"), "{status}");
        assert_eq!(site.send(request()).await.body, "after", "{status}");
        assert_eq!(site.send(request()).await.line("idempotency-origin"), "replayed");
        assert_eq!(site.backend.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn an_action_that_throws_is_recorded_as_the_route_says() {
    let threw = || vec![(head(500, &[PAYLOAD, BEGUN]), "1:E{}")];
    for (recording, executions) in [(Recording::answers(), 1), (Recording::successes(), 2)] {
        let site = site_with(recording, threw());
        for _ in 0..2 {
            let seen = site.send(by_script()).await;
            assert_eq!((seen.status, seen.body.as_str()), (500, "1:E{}"));
        }
        assert_eq!(site.backend.count(), executions);
    }
}

#[tokio::test]
async fn a_body_that_was_rendered_for_one_user_never_reaches_another() {
    let of = |user: &str, mut request: Request<Body>| {
        request
            .headers_mut()
            .insert("cookie", format!("user={user}").parse().unwrap());
        request
    };
    for request in [by_script as fn() -> Request<Body>, by_form] {
        let site = site(vec![
            (head(OK, &[PAYLOAD, BEGUN]), "page of ada"),
            (head(OK, &[PAYLOAD, BEGUN]), "page of bob"),
        ]);
        for _ in 0..2 {
            assert_eq!(site.send(of("ada", request())).await.body, "page of ada");
            assert_eq!(site.send(of("bob", request())).await.body, "page of bob");
        }
        assert_eq!(site.backend.count(), 2);
        // Nor anybody who does not say who it is.
        let mut nobody = request();
        nobody.headers_mut().remove("cookie");
        let seen = site.send(nobody).await;
        assert_eq!((seen.status, site.backend.count()), (403, 2));
        assert!(!seen.body.contains("page of"), "{}", seen.body);
    }
}

#[tokio::test]
async fn a_cookie_goes_to_the_one_whose_call_was_executed() {
    let lines = [("set-cookie", "cart=1"), ("x-action-revalidated", "1"), PAYLOAD, BEGUN];
    let site = site(vec![(head(OK, &lines), "0:{}")]);
    assert_eq!(site.send(by_script()).await.line("set-cookie"), "cart=1");
    let again = site.send(by_script()).await;
    assert_eq!(
        (again.line("set-cookie"), again.line("x-action-revalidated")),
        ("", "1")
    );
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_a_form_that_can_be_read() {
    let site = site(vec![(head(OK, &[PAYLOAD, BEGUN]), "0:{}")]);
    site.send(by_script()).await;
    let other: Fields<'_> = &[("key", "k"), ("item", "\"><script>")];
    let seen = site.send(fetch_form(PLACE, "b", "null", other)).await;
    // Next rejects the action's promise with the text, if the type is this and nothing else.
    assert_eq!((seen.status, seen.line("content-type")), (422, "text/plain"));
    assert!(
        seen.body.starts_with("The key of this form was used before"),
        "{}",
        seen.body
    );
    let mut plain = plain_form(PLACE, "b", "null", other);
    *plain.uri_mut() = "/?intent=k&page=2".parse().unwrap();
    let seen = site.send(plain).await;
    assert_eq!(
        (seen.status, seen.line("content-type")),
        (422, "text/html; charset=utf-8")
    );
    assert!(seen.body.contains("href=\"/?intent=k&amp;page=2\""), "{}", seen.body);
    assert!(seen.body.contains("data-problem=\"KEY_REUSED\""), "{}", seen.body);
    assert_eq!((seen.line("cache-control"), site.backend.count()), ("no-store", 1));
}

#[tokio::test]
async fn a_call_over_the_limit_is_told_so_and_not_made() {
    let site = site(vec![(head(OK, &[PAYLOAD, BEGUN]), "0:{}")]);
    let large = "x".repeat(300_000);
    let fields: Fields<'_> = &[("key", "k"), ("item", &large)];
    let seen = site.send(fetch_form(PLACE, "b", "null", fields)).await;
    assert_eq!((seen.status, seen.line("content-type")), (413, "text/plain"));
    let seen = site.send(plain_form(PLACE, "b", "null", fields)).await;
    assert_eq!(seen.status, 413);
    assert!(seen.body.contains("data-problem=\"BODY_TOO_LARGE\""), "{}", seen.body);
    assert_eq!(site.backend.count(), 0);
    assert_eq!(site.send(by_script()).await.line("idempotency-origin"), "executed");
}

#[tokio::test]
async fn a_done_action_whose_answer_is_too_large_to_keep_leads_to_where_it_led() {
    let large: &'static str = "0:row\n".repeat(500_000).leak();
    for (answer, request, of_script, of_form) in [
        (
            redirects().remove(0),
            by_script as fn() -> Request<Body>,
            DONE,
            "/?intent=k&order=1",
        ),
        (
            head(OK, &[PAYLOAD, BEGUN]),
            by_script,
            "/?intent=k;replace",
            "/?intent=k",
        ),
        (head(OK, &[HTML, pages()]), by_form, "/?intent=k;replace", "/?intent=k"),
    ] {
        let site = site(vec![(answer, large)]);
        assert_eq!(site.send(request()).await.body.len(), large.len());
        let seen = site.send(by_script()).await;
        assert_eq!(
            (seen.status, seen.line("x-action-redirect"), seen.body.as_str()),
            (OK, of_script, "")
        );
        let seen = site.send(self::by_form()).await;
        assert_eq!(
            (seen.status, seen.line("location"), seen.body.as_str()),
            (303, of_form, "")
        );
        assert_eq!(site.backend.count(), 1);
    }
}

#[tokio::test]
async fn calls_without_a_key_pass() {
    let site = site(vec![(head(OK, &[PAYLOAD, BEGUN]), "0:{}")]);
    let keyless = || fetch(PLACE, "b", &[("_1_item", "tea"), ("0", "[\"$K1\"]")]);
    for count in [1, 2] {
        let seen = site.send(keyless()).await;
        assert_eq!(
            (seen.status, seen.line("idempotency-origin"), site.backend.count()),
            (OK, "", count)
        );
    }
    let json = raw(
        "/",
        &[("next-action", PLACE), ("content-type", "text/plain;charset=UTF-8")],
        "[]",
    );
    assert_eq!(site.send(json).await.status, OK);
}

#[tokio::test]
async fn a_page_goes_to_the_script_as_it_is_rendered() {
    let (rendered, page) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, BoxError>>();
    let page = Arc::new(Mutex::new(Some(page)));
    let backend = tower::service_fn(move |_: Request<Body>| {
        let page = page.lock().unwrap().take().expect("it is called once");
        let answer = head(OK, &[PAYLOAD, BEGUN]).map(|()| Body::from_body(StreamBody::new(page)));
        async move { Ok::<_, Infallible>(answer) }
    });
    let service = layer(Recording::answers()).layer(backend);
    let answer = service.clone().oneshot(by_script()).await.unwrap();
    assert_eq!(answer.headers()["idempotency-origin"], "executed");
    let mut body = answer.into_body();
    for piece in ["0:{}\n", "1:\"tea\"\n"] {
        rendered.unbounded_send(Ok(Frame::data(piece.into()))).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
    }
    drop(rendered);
    assert!(body.frame().await.is_none());
    let again = service.oneshot(by_script()).await.unwrap();
    assert_eq!(
        again.into_body().collect().await.unwrap().to_bytes(),
        "0:{}\n1:\"tea\"\n"
    );
}

#[tokio::test]
async fn a_path_that_begins_with_two_slashes_leads_to_no_other_host() {
    let site = site(vec![(head(OK, &[BEGUN, PAYLOAD]), "0:{}")]);
    let to = |mut request: Request<Body>| {
        *request.uri_mut() = "//other.example/x".parse().unwrap();
        request
    };
    site.send(to(by_script())).await;
    let seen = site.send(to(by_form())).await;
    assert_eq!((seen.status, seen.line("location")), (303, "/other.example/x"));
}
