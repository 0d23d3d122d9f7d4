//! Settling a request: with which words, and when not.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Idempotency, Scope};
use tower::ServiceExt;

use super::support::{File, SCOPE, id, leave_in_doubt};

/// A service behind the layer, whose machine burns down in the middle of the work.
fn orders(file: &File) -> Router {
    let idem = Idempotency::builder(file.store.clone()).settle(Duration::ZERO).build();
    let layer = IdempotencyLayer::new(idem).scope(|_| Some(Scope::new("tenant-7")));
    let burns = async || -> &'static str { panic!("the machine is on fire") };
    Router::new().route("/orders", post(burns)).layer(layer)
}

async fn place(orders: Router) -> (u16, HeaderMap, String) {
    let request = Request::post("/orders").header("idempotency-key", "\"a7f3\"");
    let (parts, body) = orders
        .oneshot(request.body(Body::from("two books")).unwrap())
        .await
        .unwrap()
        .into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        parts.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn an_answer_of_http_is_what_the_next_request_gets() {
    let file = File::new().await;
    assert_eq!(place(orders(&file)).await.0, 500);
    let doubts = file.desk.json(&["doubts"]);
    assert_eq!(
        (&doubts[0]["key"], &doubts[0]["scope"]),
        (&"a7f3".into(), &SCOPE.into())
    );
    let body = file.path.with_extension("body");
    std::fs::write(&body, r#"{"order":7}"#).unwrap();
    let body = body.to_str().unwrap();
    let resolve = [
        "records",
        "resolve",
        "a7f3",
        "--status",
        "201",
        "--header",
        "Location: /orders/7",
        "--body-file",
        body,
    ];
    let told = file.desk.run(&resolve).with(64);
    assert!(
        told.contains("HTTP 201 Created with 1 header line and a body of 11 bytes"),
        "{told}"
    );
    file.desk.run(&[&resolve[..], &["--yes"]].concat()).well();
    let (status, headers, body) = place(orders(&file)).await;
    assert_eq!((status, &*body), (201, r#"{"order":7}"#));
    assert_eq!(headers["location"], "/orders/7");
}

#[tokio::test]
async fn an_answer_in_json_for_a_route_is_warned_about() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let told = file.desk.run(&["records", "resolve", "a7f3", "--answer", "7"]).with(64);
    assert!(told.contains("POST /orders") && told.contains("--status"), "{told}");
    // Nobody is asked, so that nobody has read it.
    let settle = ["records", "resolve", "a7f3", "--answer", "7", "--yes"];
    let told = file.desk.run(&settle).with(64);
    assert!(
        told.contains("--plain") && told.contains("Nothing was changed"),
        "{told}"
    );
    assert_eq!(file.desk.json(&["doubts"])[0]["key"], "a7f3");
    file.desk.run(&[&settle[..], &["--plain"]].concat()).well();
    assert_eq!(*file.idem().run(id("a7f3"), |_| async { 8 }).await.unwrap(), 7);
}

#[tokio::test]
async fn of_an_erased_answer_a_client_is_told_that_it_is_not_kept_whichever_kind_it_was_of() {
    let file = File::new().await;
    let erase = ["records", "erase", "a7f3", "--answers", "--yes"];
    for (answer, before, after) in [
        (&["--answer", "{\"order\":3}", "--plain"][..], 500, 200),
        (&["--status", "422", "--body", "oops"], 422, 422),
    ] {
        assert_eq!(place(orders(&file)).await.0, 500);
        let resolve = ["records", "resolve", "a7f3", "--yes"];
        file.desk.run(&[&resolve[..], answer].concat()).well();
        assert_eq!(place(orders(&file)).await.0, before, "{answer:?}");
        file.desk.run(&erase).well();
        let (status, _, body) = place(orders(&file)).await;
        assert_eq!(status, after, "{body}");
        assert!(body.contains("OUTCOME_ONLY") && body.contains("is not kept"), "{body}");

        // It is told, and is not done twice.
        let shown = file.desk.run(&["records", "show", "a7f3"]).well();
        assert!(shown.contains("it was done; its answer was erased"), "{shown}");
        let record = &file.desk.json(&["records", "show", "a7f3"])["record"];
        assert_eq!(record["result"]["kind"], "erased");
        let told = file.desk.run(&erase).with(1);
        assert!(told.contains("there is nothing to erase"), "{told}");
        file.desk.run(&["records", "erase", "a7f3", "--yes"]).well();
    }
}

#[tokio::test]
async fn how_what_was_settled_is_taken_back_is_told_whole() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let resolve = ["records", "resolve", "a7f3", "--status", "201", "--yes"];
    file.desk.run(&resolve).well();
    let told = file.desk.run(&resolve).with(1);
    assert!(
        told.contains("oneflight records erase --scope='tenant-7|route=POST /orders' --answers a7f3"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_never_replayed_is_turned_away_by_its_name() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let resolve = ["records", "resolve", "a7f3", "--yes", "--status"];
    for (answer, told_of) in [
        (
            &["201", "--header", "Set-Cookie: a=1", "--header", "Date: x"][..],
            "set-cookie, date",
        ),
        (
            &["201", "--header", "Connection: X-Hop", "--header", "X-Hop: 1"],
            "connection, x-hop",
        ),
        (&["201", "--header", "Content-Length: 4"], "content-length"),
        (&["204", "--body", "x"], "no body"),
    ] {
        let told = file.desk.run(&[&resolve[..], answer].concat()).with(64);
        assert!(told.contains(told_of), "{answer:?}: {told}");
    }
    assert_eq!(file.desk.json(&["doubts"])[0]["key"], "a7f3");
    file.desk.run(&[&resolve[..], &["204"]].concat()).well();
}

#[tokio::test]
async fn an_answer_that_is_kept_for_no_time_is_not_recorded() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let settle = ["records", "resolve", "a7f3", "--status", "201", "--yes", "--retention"];
    for none in ["0s", "0ms"] {
        let told = file.desk.run(&[&settle[..], &[none]].concat()).with(64);
        assert!(told.contains("forgotten at once"), "{told}");
    }
    assert_eq!(file.desk.json(&["doubts"])[0]["key"], "a7f3");
}

#[tokio::test]
async fn who_has_told_an_answer_is_shown() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("settled")).await;
    file.desk
        .run(&["records", "resolve", "settled", "--status", "201", "--yes"])
        .well();
    let _ = file.idem().run(id("worked"), |_| async { 7 }).await.unwrap();
    for (key, settled) in [("settled", true), ("worked", false)] {
        assert_eq!(file.desk.json(&["records", "show", key])["record"]["settled"], settled);
        let shown = file.desk.run(&["records", "show", key]).well();
        assert_eq!(shown.contains("settled by a person"), settled, "{shown}");
    }
    let listed = file.desk.run(&["records", "list"]).well();
    assert_eq!(listed.matches("settled by a person").count(), 1, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_doubt_is_left_alone() {
    let file = File::new().await;
    let idem = file.idem();
    let _ = idem.run(id("done"), |_| async { 7 }).await.unwrap();
    let told = file
        .desk
        .run(&["records", "resolve", "done", "--not-done", "--yes"])
        .with(1);
    assert!(told.contains("is completed, and nothing was changed"), "{told}");

    let (begun, begins) = tokio::sync::oneshot::channel();
    let (go, goes) = tokio::sync::oneshot::channel();
    let call = tokio::spawn(async move {
        let work = |_| async {
            begun.send(()).unwrap();
            goes.await.unwrap()
        };
        idem.run(id("running"), work).await
    });
    begins.await.unwrap();
    let told = file
        .desk
        .run(&["records", "resolve", "running", "--not-done", "--yes"])
        .with(75);
    assert!(
        told.contains("its holder is alive") && told.contains("records hold"),
        "{told}"
    );
    go.send(8).unwrap();
    assert_eq!(*call.await.unwrap().unwrap(), 8);
}

#[tokio::test]
async fn what_happened_has_to_be_said_once_and_be_an_answer() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let resolve = |args: &[&str]| {
        file.desk
            .run(&[&["records", "resolve", "a7f3", "--yes"], args].concat())
    };
    resolve(&[]).with(64);
    resolve(&["--not-done", "--answer", "7"]).with(64);
    resolve(&["--status", "99"]).with(64);
    resolve(&["--header", "a: b", "--not-done"]).with(64);
    let told = resolve(&["--answer", "ch_1"]).with(65);
    assert!(told.contains("no JSON"), "{told}");
    resolve(&["--answer-file", "/nowhere/at/all"]).with(66);
    resolve(&["--plain", "--not-done"]).with(64);
    resolve(&["--scope", SCOPE, "--answer", "\"ch_1\"", "--plain"]).well();
}

#[tokio::test]
async fn an_answer_that_ends_no_request_is_not_recorded_and_one_that_the_call_cannot_read_is_told_of() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    for status in ["103", "600", "700"] {
        let told = file
            .desk
            .run(&["records", "resolve", "a7f3", "--status", status, "--yes"])
            .with(64);
        assert!(told.contains("200 to 599"), "{told}");
    }
    let status = ["records", "resolve", "a7f3", "--status", "201"];
    assert!(!file.desk.run(&status).with(64).contains("names no route"));
    let plain = oneflight::RequestIdentity::new(Scope::new("nightly"), "b81c").unwrap();
    leave_in_doubt(&file.store, plain).await;
    let told = file
        .desk
        .run(&["records", "resolve", "b81c", "--status", "201"])
        .with(64);
    assert!(told.contains("names no route") && told.contains("--answer"), "{told}");
    file.desk.run(&["purge", "--batch", "0", "--yes"]).with(64);
}
