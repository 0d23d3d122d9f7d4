//! What waits for a person is settled: by an answer of HTTP with its status and headers, and step by step. The rules are those of the
//! desk in a shell.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use oneflight::http::layer::{IdempotencyLayer, Outcome};
use oneflight::idempotency::Step;
use oneflight::store::{Erase, StepStore, Upkeep};
use oneflight::{ErrorKind, Idempotency, RequestIdentity, Scope};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::chromium::{Browser, Scripts};
use crate::fill::{self, Filled, id};
use crate::page::{ask, decide, fill_in, in_each_form, log_in, press, show_story, text_of, until, until_closed};
use crate::support::{Dashboard, Session};

/// A shop behind the layer, that does not get to know what its payment provider did.
async fn order(filled: &Filled) -> (u16, Option<String>, String) {
    let idem = Idempotency::builder(filled.store.clone())
        .settle(Duration::ZERO)
        .build();
    let layer = IdempotencyLayer::new(idem).scope(|_| Some(Scope::new("tenant-7")));
    let place = async || (StatusCode::GATEWAY_TIMEOUT, Outcome::Unknown, "no answer came");
    let shop = Router::new().route("/orders", post(place)).layer(layer);
    let request = Request::post("/orders").header("idempotency-key", "a7f3");
    let answer = shop.oneshot(request.body(Body::from("tea")).unwrap()).await;
    let (parts, body) = answer.unwrap().into_parts();
    let location = parts
        .headers
        .get("location")
        .map(|value| value.to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        location,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

/// Goes on with the mutation of steps, whose charge answers as it is told to.
async fn go_on(filled: &Filled, key: &str, charge: Result<u64, &'static str>) -> Result<u64, oneflight::Error> {
    let orders = filled.idem.with_workflow("place_order");
    let call = orders.run_steps(id(key), &7, move |steps| async move {
        steps
            .run("reserve", |_| async { Ok::<_, std::io::Error>(1_u64) })
            .await?;
        steps
            .run(Step::new("charge").at_most_once(), |_| async move { charge })
            .await
    });
    call.await.map(|reply| *reply)
}

async fn is_held(filled: &Filled, key: &str) -> bool {
    filled.store.load_steps(&id(key)).await.unwrap().unwrap().held
}

/// What the page knows of a mutation.
fn workflow(session: &Session<'_>, key: &str) -> Value {
    let told = session.get(&format!("/api/story?key={key}")).send().json();
    told["stories"][0]["workflow"].clone()
}

#[tokio::test]
async fn an_answer_of_http_is_recorded_with_the_status_and_the_headers_that_were_given() {
    let filled = fill::empty().await;
    assert_eq!(order(&filled).await.0, 504);
    assert_eq!(order(&filled).await.0, 409);
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let row = session.get("/api/records?state=in_doubt").send().json()["rows"][0].clone();
    let resolve = |answer: Value| {
        let body =
            json!({ "scope": row["scope"], "key": row["key"], "token": row["token"], "how": { "answered": answer } });
        session.post("/api/change/resolve", &body).send()
    };
    for wrong in [
        json!({ "status": 199, "body": "" }),
        json!({ "status": 200, "headers": "no colon", "body": "" }),
        json!({ "status": 200, "headers": "Set-Cookie: a=1", "body": "" }),
        json!({ "status": 204, "body": "x" }),
        json!({ "status": 200, "content_type": "text/html", "headers": "Content-Type: text/plain", "body": "" }),
    ] {
        assert_eq!(resolve(wrong.clone()).problem(), (400, "invalid".to_owned()), "{wrong}");
    }
    let answer = json!({
        "status": 201,
        "content_type": "application/json",
        "headers": "Location: /orders/8",
        "body": "{\"order\":8}",
    });
    let told = resolve(answer);
    assert_eq!(told.status, 200, "{told:?}");
    let expected = (201, Some("/orders/8".to_owned()), "{\"order\":8}".to_owned());
    assert_eq!(order(&filled).await, expected);

    // Who has told it is shown.
    let story = || session.get("/api/story?key=a7f3").send().json()["stories"][0].clone();
    let told = story();
    assert_eq!(told["record"]["settled"], true, "{told:#}");
    assert!(told["events"].to_string().contains("a person has told"), "{told:#}");
    filled.store.erase("tenant-7", Erase::Answers, None, 10).await.unwrap();
    let told = story();
    assert_eq!(told["record"]["result"]["outcome"], "erased", "{told:#}");
    assert!(!told["events"].to_string().contains("replayed"), "{told:#}");
}

#[tokio::test]
async fn a_job_is_settled_only_with_what_it_can_end_with() {
    let filled = fill::empty().await;
    let job = RequestIdentity::new(Scope::new("exec"), "nightly").unwrap();
    filled.doubt(job.clone()).await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let token = filled.token(&job).await.to_string();
    let resolve = |how: Value| {
        let body = json!({ "scope": "exec", "key": "nightly", "token": token, "how": how });
        session.post("/api/change/resolve", &body).send()
    };
    for wrong in [
        json!({ "recorded": { "json": "0" } }),
        json!({ "answered": { "status": 200, "body": "" } }),
    ] {
        assert_eq!(resolve(wrong.clone()).problem(), (400, "invalid".to_owned()), "{wrong}");
    }
    assert_eq!(resolve(json!({ "recorded": { "json": "{\"exit\": 0}" } })).status, 200);
}

#[tokio::test]
async fn a_pattern_of_topics_is_not_paused() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let pause = |topic: &str| session.post("/api/change/pause", &json!({ "topic": topic })).send();
    assert_eq!(pause("mail.*").problem(), (400, "invalid".to_owned()));
    assert_eq!(pause("mail.receipt").status, 200);
    assert!(!filled.is_paused("mail.*").await && filled.is_paused("mail.receipt").await);
}

#[tokio::test]
async fn json_is_recorded_as_it_was_typed() {
    let filled = fill::empty().await;
    filled.doubt(id("a7f3")).await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let token = filled.token(&id("a7f3")).await.to_string();
    let typed = r#"{"z":12345678901234567890123,"a":1.10}"#;
    let body =
        json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": token, "how": { "recorded": { "json": typed } } });
    assert_eq!(session.post("/api/change/resolve", &body).send().status, 200);
    let replayed = filled
        .idem
        .run(id("a7f3"), |_| async { serde_json::value::RawValue::NULL.to_owned() });
    assert_eq!(replayed.await.unwrap().get(), typed);
}

#[tokio::test]
async fn a_step_is_settled_only_as_it_was_looked_at_and_while_it_is_held() {
    let filled = fill::empty().await;
    filled.held_steps("a7f3").await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let shown = workflow(&session, "a7f3");
    let states: Vec<_> = shown["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (&step["step"], &step["state"]))
        .collect();
    assert_eq!(
        states,
        [
            (&json!("reserve"), &json!("done")),
            (&json!("charge"), &json!("in_doubt"))
        ]
    );
    let settle = |token: &Value, step: &str, how: Value| {
        let body = json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": token, "step": step, "how": how });
        session.post("/api/change/settle-step", &body).send()
    };
    let done = || json!({ "done": { "json": "12" } });
    for (token, step, how, told) in [
        (&json!("4711"), "charge", done(), "another attempt"),
        (&shown["token"], "refund", done(), "no such step"),
        (&shown["token"], "reserve", json!("not_done"), "has told"),
    ] {
        let answer = settle(token, step, how);
        assert_eq!(answer.problem(), (409, "changed".to_owned()));
        assert!(answer.body.contains(told), "{answer:?}");
    }
    let wrong = settle(&shown["token"], "charge", json!({ "done": { "json": "ch_1" } }));
    assert_eq!(wrong.problem(), (400, "invalid".to_owned()));

    // It goes on, and comes to be held there again: by another attempt.
    let resume = json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": shown["token"] });
    assert_eq!(session.post("/api/change/resume-steps", &resume).send().status, 200);
    let answer = settle(&shown["token"], "charge", done());
    assert_eq!(answer.problem(), (409, "changed".to_owned()));
    assert!(answer.body.contains("not held"), "{answer:?}");
    let error = go_on(&filled, "a7f3", Ok(13)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stopped(_)), "{error}");
    assert!(is_held(&filled, "a7f3").await);
    assert_eq!(
        settle(&shown["token"], "charge", done()).problem(),
        (409, "changed".to_owned())
    );

    let now = workflow(&session, "a7f3");
    assert_eq!(settle(&now["token"], "charge", done()).status, 200);
    assert!(is_held(&filled, "a7f3").await);
    assert_eq!(
        settle(&now["token"], "charge", json!("not_done")).problem(),
        (409, "changed".to_owned())
    );
    let resume = json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": now["token"] });
    assert_eq!(session.post("/api/change/resume-steps", &resume).send().status, 200);
    assert_eq!(go_on(&filled, "a7f3", Err("run again")).await.unwrap(), 12);

    let (_, log) = dashboard.stop();
    assert!(
        log.contains("change=\"record a step\"") && log.contains("charge of"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_are_held_are_settled_and_go_on_by_the_buttons() {
    let filled = fill::empty().await;
    filled.held_steps("c9d5").await;
    filled.held_steps("d0c5").await;
    let dashboard = Dashboard::changing(filled.path());
    let browser = Browser::start(Scripts::On).await;
    log_in(&browser, &dashboard).await;
    let open = "document.querySelector('#story table[aria-label=Steps]')?.innerText.includes('in doubt')";

    press(&browser, "#steps tbody", "c9d5").await;
    until(&browser, "the step that is in doubt", open).await;
    ask(&browser, "#story table[aria-label=Steps]", "It was done…").await;
    let asked = text_of(&browser, "dialog").await;
    assert!(asked.contains("charge of c9d5") && !asked.contains("Status"), "{asked}");
    fill_in(&browser, &[("#answer-body", "ch_1")]).await;
    press(&browser, "dialog", "Record this answer").await;
    until(
        &browser,
        "what is wrong with it",
        "document.querySelector('#ask-error').innerText.includes('no JSON')",
    )
    .await;
    in_each_form(&browser, "dialog-step").await;
    fill_in(&browser, &[("#answer-body", "12")]).await;
    press(&browser, "dialog", "Record this answer").await;
    until_closed(&browser).await;
    until(&browser, "that no step is in doubt", &format!("!{open}")).await;
    assert!(is_held(&filled, "c9d5").await);
    decide(&browser, "#story", "Resume…", &[], "Let it go on").await;
    assert_eq!(go_on(&filled, "c9d5", Err("run again")).await.unwrap(), 12);

    show_story(&browser, "key", "d0c5").await;
    until(&browser, "the other one", open).await;
    decide(
        &browser,
        "#story table[aria-label=Steps]",
        "It was not done…",
        &[],
        "Have it run",
    )
    .await;
    until(&browser, "that no step is in doubt", &format!("!{open}")).await;
    decide(&browser, "#story", "Resume…", &[], "Let it go on").await;
    assert_eq!(go_on(&filled, "d0c5", Ok(13)).await.unwrap(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_doubt_is_settled_by_the_buttons_with_an_answer_of_http() {
    let filled = fill::empty().await;
    assert_eq!(order(&filled).await.0, 504);
    let dashboard = Dashboard::changing(filled.path());
    let browser = Browser::start(Scripts::On).await;
    log_in(&browser, &dashboard).await;
    until(
        &browser,
        "the doubt",
        "document.querySelector('#doubts').innerText.includes('a7f3')",
    )
    .await;
    press(&browser, "#doubts tbody", "a7f3").await;
    until(&browser, "the story", "document.querySelector('#story ol.line')").await;
    // Nothing is recorded of the holder's end, and nothing is said of it.
    let told = text_of(&browser, "#story").await;
    assert!(told.contains("it is not known what was done"), "{told}");
    assert!(!told.contains("ended") && !told.contains("ran out"), "{told}");
    in_each_form(&browser, "story-doubt").await;
    ask(&browser, "#story", "It was done…").await;
    fill_in(
        &browser,
        &[
            ("#answer-status", "201"),
            ("#answer-headers", "no colon"),
            ("#answer-body", "{\"order\":8}"),
        ],
    )
    .await;
    press(&browser, "dialog", "Record this answer").await;
    until(
        &browser,
        "what is wrong with it",
        "document.querySelector('#ask-error').innerText.includes('line 1 of the headers')",
    )
    .await;
    in_each_form(&browser, "dialog-doubt").await;
    fill_in(&browser, &[("#answer-headers", "Location: /orders/8")]).await;
    press(&browser, "dialog", "Record this answer").await;
    until_closed(&browser).await;
    until(
        &browser,
        "that it is completed",
        "document.querySelector('#story').innerText.includes('✓ completed') && document.querySelector('#doubts').innerText.includes('Nothing is in doubt')",
    )
    .await;
    // The table of records is drawn anew as well, and says who has told the answer.
    until(
        &browser,
        "that a person has settled it",
        "['#story', '#records'].every((place) => document.querySelector(place).innerText.includes('settled by a person'))",
    )
    .await;
    in_each_form(&browser, "settled").await;
    let expected = (201, Some("/orders/8".to_owned()), "{\"order\":8}".to_owned());
    assert_eq!(order(&filled).await, expected);
}
