//! Which requests call an action, under which key, and which of them are the same.

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, Request};
use http_body_util::BodyExt;
use oneflight::Fingerprint;
use oneflight::http::KeySource;
use oneflight::http::layer::FromBody;
use tower::{Layer, ServiceExt};

use super::wire::{BEGUN, NOTE, OK, PLACE, fetch, fetch_form, head, plain_form, raw, site};
use crate::proxy::actions::intent::{Call, Counts, Intent};
use crate::proxy::body::Body;
use crate::proxy::config::Route;

async fn intent(request: Request<Body>) -> Option<Intent> {
    let (parts, body) = request.into_parts();
    let body: Bytes = body.collect().await.unwrap().to_bytes();
    let call = Call::of(&parts.method, &parts.headers)?;
    Intent::read(call, &parts.headers, &body, &counts(&[], &[]))
        .await
        .expect("it can be read")
}

fn counts(leave_out: &[&str], headers: &[HeaderName]) -> Counts {
    Counts {
        keys: KeySource::new(),
        field: "key".to_owned(),
        leave_out: leave_out.iter().map(|&name| name.to_owned()).collect(),
        headers: headers.to_vec(),
    }
}

async fn fingerprint(request: Request<Body>) -> Fingerprint {
    intent(request).await.expect("it calls an action").fingerprint
}

async fn key(request: Request<Body>) -> String {
    let found = intent(request).await.expect("it calls an action").key;
    found.unwrap().map_or_else(String::new, |key| key.as_str().to_owned())
}

const ORDER: &[(&str, &str)] = &[("key", "k"), ("item", "tea"), ("quantity", "2")];

#[tokio::test]
async fn one_intent_has_one_fingerprint_by_a_script_and_as_a_plain_form() {
    let first = fingerprint(fetch_form(PLACE, "----WebKitFormBoundaryA", "\"$undefined\"", ORDER)).await;
    // Another boundary, another state of `useActionState`, React's own fields among the user's, another key.
    let state = "{\"code\":\"Invalid\",\"fields\":{\"item\":\"tea\"}}";
    assert_eq!(
        first,
        fingerprint(fetch_form(PLACE, "----WebKitFormBoundaryB", state, ORDER)).await
    );
    let with_reacts = [&[("$ACTION_REF_1", ""), ("$ACTION_KEY", "kx")], ORDER].concat();
    assert_eq!(first, fingerprint(fetch_form(PLACE, "b", state, &with_reacts)).await);
    assert_eq!(
        first,
        fingerprint(plain_form(PLACE, "----WebKitFormBoundaryC", "\"$undefined\"", ORDER)).await
    );
    assert_eq!(first, fingerprint(plain_form(PLACE, "c", state, ORDER)).await);
    // What the user sent is another thing.
    for other in [
        &[("key", "k"), ("item", "tea"), ("quantity", "3")][..],
        &[("key", "k"), ("item", "tea")],
        &[("key", "k"), ("quantity", "2"), ("item", "tea")],
    ] {
        assert_ne!(first, fingerprint(fetch_form(PLACE, "a", "null", other)).await);
        assert_ne!(first, fingerprint(plain_form(PLACE, "a", "null", other)).await);
    }
    // Another button of the same form, with the same key.
    assert_ne!(first, fingerprint(fetch_form(NOTE, "a", "null", ORDER)).await);
    assert_ne!(first, fingerprint(plain_form(NOTE, "a", "null", ORDER)).await);
}

/// What Next encrypts of the scope of an action: it is another text at each render.
fn ciphertext(vector: u8) -> String {
    char::from(vector).to_string().repeat(128)
}

#[tokio::test]
async fn what_is_bound_to_an_action_is_left_out() {
    let of = |vector, item: &'static str| {
        let root = format!("[\"{}\",\"$K1\"]", ciphertext(vector));
        fetch(PLACE, "b", &[("_1_key", "k"), ("_1_item", item), ("0", &root)])
    };
    let first = fingerprint(of(b'A', "tea")).await;
    assert_eq!(first, fingerprint(of(b'B', "tea")).await);
    assert_ne!(first, fingerprint(of(b'A', "coffee")).await);
    // A call without a form, under a key of its header.
    let of = |vector, item: &str| {
        let body = format!("[\"{}\",\"{item}\"]", ciphertext(vector));
        let lines = [
            ("next-action", PLACE),
            ("idempotency-key", "k"),
            ("content-type", "text/plain;charset=UTF-8"),
        ];
        raw("/", &lines, body)
    };
    let first = fingerprint(of(b'A', "tea")).await;
    assert_eq!(first, fingerprint(of(b'B', "tea")).await);
    assert_ne!(first, fingerprint(of(b'A', "coffee")).await);
}

#[tokio::test]
async fn the_id_is_that_of_the_button_which_was_pressed() {
    let by = |id: &str| {
        let pressed = format!("$ACTION_ID_{id}");
        let fields = [
            ("$ACTION_REF_1", ""),
            ("$ACTION_1:0", "{\"id\":\"60ff\",\"bound\":null}"),
            ("key", "k"),
            (pressed.as_str(), ""),
        ];
        let body = super::wire::multipart("b", &fields);
        raw("/", &[("content-type", "multipart/form-data; boundary=b")], body)
    };
    assert_ne!(fingerprint(by(PLACE)).await, fingerprint(by(NOTE)).await);
}

#[tokio::test]
async fn a_key_is_found_in_the_header_in_a_field_and_in_json() {
    let json = |body: &'static str| raw("/", &[("next-action", PLACE), ("content-type", "text/plain")], body);
    for (request, expected) in [
        (fetch_form(PLACE, "b", "null", ORDER), "k"),
        (plain_form(PLACE, "b", "null", ORDER), "k"),
        (fetch(PLACE, "b", &[("1_key", "k"), ("0", "[\"$K1\"]")]), "k"),
        (fetch(PLACE, "b", &[("_10_key", "k"), ("0", "[null,\"$Ka\"]")]), "k"),
        (
            fetch(
                PLACE,
                "b",
                &[("0", "[{\"key\":\"k\",\"file\":\"$B1\"}]"), ("1", "bytes")],
            ),
            "k",
        ),
        (json("[{\"key\":\"k\"}]"), "k"),
        (json("[{\"code\":\"Invalid\"},{\"item\":\"tea\",\"key\":\"k\"}]"), "k"),
        (json("[{\"key\":\"$$k\"}]"), "$k"),
        (
            raw("/", &[("next-action", PLACE), ("idempotency-key", "\"k\"")], "[]"),
            "k",
        ),
        (json("[\"tea\"]"), ""),
        // Of another form than the one that is sent.
        (fetch(PLACE, "b", &[("_2_key", "k"), ("0", "[\"$K1\"]")]), ""),
    ] {
        assert_eq!(key(request).await, expected);
    }
}

#[tokio::test]
async fn the_state_of_a_call_without_a_form_is_left_out() {
    let json = |body: &'static str| raw("/", &[("next-action", PLACE), ("content-type", "text/plain")], body);
    let first = fingerprint(json("[null,{\"item\":\"tea\",\"key\":\"k\"}]")).await;
    assert_eq!(
        first,
        fingerprint(json("[{\"code\":\"Invalid\"},{\"key\":\"k\",\"item\":\"tea\"}]")).await
    );
    assert_ne!(
        first,
        fingerprint(json("[null,{\"item\":\"coffee\",\"key\":\"k\"}]")).await
    );
}

#[tokio::test]
async fn two_keys_that_differ_are_told_and_nothing_is_called() {
    let site = site(vec![(head(OK, &[BEGUN]), "0:{}")]);
    let mut request = fetch_form(PLACE, "b", "null", ORDER);
    request
        .headers_mut()
        .insert("idempotency-key", "other".parse().unwrap());
    let seen = site.send(request).await;
    assert_eq!((seen.status, seen.line("content-type")), (400, "text/plain"));
    assert!(seen.body.contains("two idempotency keys"), "{}", seen.body);
    assert_eq!(site.backend.count(), 0);
}

#[tokio::test]
async fn what_calls_no_action_passes_as_on_any_route() {
    let site = site(vec![(head(OK, &[]), "page")]);
    let form = [("content-type", "multipart/form-data; boundary=b")];
    let upload = || raw("/", &form, super::wire::multipart("b", &[("item", "tea")]));
    let urlencoded = || {
        raw(
            "/",
            &[("content-type", "application/x-www-form-urlencoded")],
            "$ACTION_ID_1=&item=tea",
        )
    };
    let large = || {
        raw(
            "/",
            &form,
            super::wire::multipart("b", &[("item", &"tea".repeat(50_000))]),
        )
    };
    for (number, request) in [upload(), upload(), urlencoded(), urlencoded(), large(), large()]
        .into_iter()
        .enumerate()
    {
        let seen = site.send(request).await;
        assert_eq!(
            (seen.status, seen.line("idempotency-origin"), seen.body.as_str()),
            (OK, "", "page")
        );
        assert_eq!(site.backend.count(), number + 1);
    }
    // With a key, it is executed once, by the rules of any route.
    let keyed = || {
        raw(
            "/",
            &form,
            super::wire::multipart("b", &[("item", "tea"), ("key", "k")]),
        )
    };
    assert_eq!(site.send(keyed()).await.line("idempotency-origin"), "executed");
    assert_eq!(site.send(keyed()).await.line("idempotency-origin"), "replayed");
}

#[tokio::test]
async fn what_next_compares_with_the_origin_comes_as_it_was_sent() {
    let site = site(vec![(head(OK, &[BEGUN]), "0:{}")]);
    let mut request = fetch_form(PLACE, "b", "null", ORDER);
    for (name, value) in [
        ("origin", "https://shop.example:8443"),
        ("x-forwarded-host", "shop.example:8443"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    site.send(request).await;
    let asked = site.backend.asked.lock().unwrap();
    let line = |name| asked[0].headers[name].to_str().unwrap();
    assert_eq!(line("host"), "shop.example:8443");
    assert_eq!(line("x-forwarded-host"), "shop.example:8443");
    assert_eq!(line("origin"), "https://shop.example:8443");
    assert_eq!(line("next-action"), PLACE);
}

#[tokio::test]
async fn what_is_bound_and_can_be_read_tells_two_intents_apart_however_they_are_sent() {
    let script = |bound: &str| {
        let root = format!("[{bound},\"$K1\"]");
        fetch(PLACE, "b", &[("_1_key", "k"), ("_1_item", "tea"), ("0", &root)])
    };
    let form = |bound: &str| {
        let described = format!("{{\"id\":\"{PLACE}\",\"bound\":\"$@1\"}}");
        let bound = format!("[{bound}]");
        let fields = [
            ("$ACTION_REF_1", ""),
            ("$ACTION_1:0", described.as_str()),
            ("$ACTION_1:1", bound.as_str()),
            ("key", "k"),
            ("item", "tea"),
        ];
        let body = super::wire::multipart("b", &fields);
        raw("/", &[("content-type", "multipart/form-data; boundary=b")], body)
    };
    let (one, two) = (ciphertext(b'A'), ciphertext(b'B'));
    let state = "{\"code\":\"Invalid\"}";
    let of_7 = fingerprint(script("7")).await;
    for bound in [
        "7".to_owned(),
        "7,null".to_owned(),
        format!("7,{state}"),
        format!("\"{one}\",7"),
        format!("\"{two}\",7,{state}"),
    ] {
        assert_eq!(of_7, fingerprint(script(&bound)).await, "{bound}");
        assert_eq!(of_7, fingerprint(form(&bound)).await, "{bound}");
    }
    for bound in ["8", "\"7\"", "8,null", "7,8", "null"] {
        assert_ne!(of_7, fingerprint(script(bound)).await, "{bound}");
        assert_ne!(of_7, fingerprint(form(bound)).await, "{bound}");
    }
    // The same of a call without a form.
    let json = |arguments: &str| {
        raw(
            "/",
            &[("next-action", PLACE), ("content-type", "text/plain")],
            arguments.to_owned(),
        )
    };
    let of_7 = fingerprint(json("[7,{\"item\":\"tea\",\"key\":\"k\"}]")).await;
    assert_eq!(
        of_7,
        fingerprint(json("[7,null,{\"item\":\"tea\",\"key\":\"k\"}]")).await
    );
    for other in [
        "[8,{\"item\":\"tea\",\"key\":\"k\"}]",
        "[7,{\"item\":\"tea\",\"key\":\"k\"},\"more\"]",
        "[{\"item\":\"tea\",\"key\":\"k\"}]",
    ] {
        assert_ne!(of_7, fingerprint(json(other)).await, "{other}");
    }
}

#[tokio::test]
async fn what_the_route_leaves_out_or_adds_counts_for_actions_too() {
    const VERSION: HeaderName = HeaderName::from_static("x-version");
    let of = async |token: &str, version: &'static str, counts: Counts| {
        let fields = [("key", "k"), ("item", "tea"), ("csrf", token)];
        let mut request = fetch_form(PLACE, "b", "null", &fields);
        request.headers_mut().insert(VERSION, version.parse().unwrap());
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let intent = Intent::read(Call::Fetch, &parts.headers, &body, &counts).await;
        intent.expect("it can be read").expect("it calls an action").fingerprint
    };
    let left = || counts(&["csrf"], &[]);
    assert_eq!(of("a", "1", left()).await, of("b", "2", left()).await);
    assert_ne!(
        of("a", "1", counts(&[], &[])).await,
        of("b", "1", counts(&[], &[])).await
    );
    let versioned = || counts(&["csrf"], &[VERSION]);
    assert_eq!(of("a", "1", versioned()).await, of("b", "1", versioned()).await);
    assert_ne!(of("a", "1", versioned()).await, of("a", "2", versioned()).await);
}

#[tokio::test]
async fn a_form_that_cannot_be_read_calls_no_action_unprotected() {
    let site = site(vec![(head(OK, &[]), "page")]);
    let form = [("content-type", "multipart/form-data; boundary=b")];
    let pressed = format!("$ACTION_ID_{PLACE}");
    let many: Vec<(&str, &str)> = std::iter::repeat_n(("item", "tea"), 1100).collect();
    let many = |first: &'static str| {
        let all = [&[(first, "")], many.as_slice()].concat();
        raw("/", &form, super::wire::multipart("b", &all))
    };
    let nameless = super::wire::multipart("b", &[(pressed.as_str(), ""), ("x", "y")]).replace("; name=\"x\"", "");
    let undescribed = super::wire::multipart("b", &[("$ACTION_REF_1", ""), ("item", "tea")]);
    for request in [
        many("$ACTION_ID_60"),
        raw("/", &form, nameless),
        raw("/", &form, undescribed),
    ] {
        let seen = site.send(request).await;
        assert_eq!(seen.status, 400, "{}", seen.body);
    }
    assert_eq!(site.backend.count(), 0);
}

#[tokio::test]
async fn a_slow_form_that_calls_no_action_is_forwarded_and_one_that_comes_to_call_one_breaks_off() {
    let slow = async |late: &'static str| {
        let mut route = Route::default();
        route.limits.request_time = std::time::Duration::from_millis(50);
        let layer = super::wire::layer_of(route);
        let called = std::sync::Arc::new(tokio::sync::Notify::new());
        let is_called = std::sync::Arc::clone(&called);
        let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let backend = tower::service_fn(move |request: Request<Body>| {
            let told = told.clone();
            called.notify_one();
            async move {
                let read = request.into_body().collect().await.map(|body| body.to_bytes());
                told.send(read.is_ok()).unwrap();
                Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
            }
        });
        // The end comes when the backend has been called, and so later than the limit.
        let parts = futures::stream::iter([false, true]).then(move |is_late| {
            let is_called = std::sync::Arc::clone(&is_called);
            async move {
                let text = if is_late {
                    is_called.notified().await;
                    late
                } else {
                    "--b\r\nContent-Disposition: form-data; name=\"item\"\r\n\r\ntea\r\n--b"
                };
                Ok(http_body::Frame::data(Bytes::from(text)))
            }
        });
        let request = Request::post("/")
            .header("content-type", "multipart/form-data; boundary=b")
            .header("cookie", "anne")
            .body(Body::from_body(http_body_util::StreamBody::new(parts)))
            .unwrap();
        let answer = layer.layer(backend).oneshot(request).await.unwrap();
        (answer.status().as_u16(), seen.recv().await)
    };
    assert_eq!(slow("--\r\n").await, (200, Some(true)));
    let names = "\r\nContent-Disposition: form-data; name=\"$ACTION_ID_60\"\r\n\r\n\r\n--b--\r\n";
    assert_eq!(slow(names).await, (200, Some(false)));
}
