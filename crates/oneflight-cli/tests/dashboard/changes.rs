//! What an operator changes on the page: only what was looked at, for as long as the service keeps it, and with a line in the log.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use oneflight::Idempotency;
use oneflight::record::State;
use oneflight::store::outbox::{MessageQuery, OutboxUpkeep};
use oneflight::store::{Erase, StepStore, Store, Upkeep};
use serde_json::json;

use crate::fill::{self, ORDER, SECRET, id};
use crate::support::{Dashboard, TOKEN, until};

#[tokio::test]
async fn a_mutation_that_goes_on_by_itself_is_not_called_in_doubt() {
    let filled = fill::empty().await;
    let idem = Idempotency::builder(filled.store.clone())
        .lease(Duration::from_millis(200))
        .build();
    let orders = idem.with_workflow("place_order");
    let call = orders.run_steps(id("a7f3"), &7, |steps| async move {
        steps.run("reserve", |_| async { Ok::<_, std::io::Error>(1) }).await?;
        steps
            .run("charge", |_| async { Err::<u32, _>("the line broke off") })
            .await
    });
    let _ = call.await.map(|_| ());
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let record = filled.store.load(&id("a7f3")).await.unwrap().expect("it stays");
        if record.lease_remaining().is_some_and(|left| left.is_zero()) {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "its lease never ends: {record:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dashboard = Dashboard::reading(filled.path());
    let told = dashboard.get("/api/story?key=a7f3").send().json();
    let story = &told["stories"][0];
    assert_eq!(story["record"]["state"], "in_progress", "{told:#}");
    assert!(story["record"]["since_ms"].is_u64(), "{told:#}");
    assert!(story["events"].to_string().contains("goes on by itself"), "{told:#}");
    let rows = |path: &str| dashboard.get(path).send().json()["rows"].clone();
    assert_eq!(rows("/api/records?state=in_doubt"), json!([]));
    assert_eq!(rows("/api/records")[0]["state"], "in_progress");
    assert_eq!(rows("/api/steps")[0]["held"], false);
}

#[tokio::test]
async fn a_change_is_made_and_logged_although_who_asked_went_away() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    // It waits for the file meanwhile.
    let mut locked = filled.store.pool().acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *locked).await.unwrap();
    let body = json!({ "topic": "mail.receipt" }).to_string();
    let head = format!(
        "POST /api/change/pause HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n\
         Content-Type: application/json\r\nCookie: {}\r\nX-Oneflight-Csrf: {}\r\nContent-Length: {}\r\n\r\n{body}",
        session.cookie,
        session.csrf,
        body.len(),
        address = dashboard.address,
    );
    let mut client = TcpStream::connect(dashboard.address).unwrap();
    client.write_all(head.as_bytes()).unwrap();
    // So that it is under way by now, if it gets a turn.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(300)).await;
    sqlx::query("ROLLBACK").execute(&mut *locked).await.unwrap();
    drop(locked);
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    while !filled.is_paused("mail.receipt").await {
        assert!(tokio::time::Instant::now() < end, "it is never paused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, log) = dashboard.stop();
    assert!(
        log.contains("change=\"pause\"") && log.contains("It is paused"),
        "{log}"
    );
}

#[tokio::test]
async fn what_was_not_done_is_logged_with_who_asked_and_without_the_key() {
    let filled = fill::empty().await;
    let key = "8e03978e-40d5-43e8-bc93-6894a57f9324";
    filled.doubt(id(key)).await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let body = json!({ "scope": id(key).scope(), "key": key, "token": "1844674407370955", "how": "rerun" });
    assert_eq!(session.post("/api/change/resolve", &body).send().status, 409);
    let (_, log) = dashboard.stop();
    assert!(
        log.contains("change=\"free\"") && log.contains("kind=\"changed\""),
        "{log}"
    );
    assert!(
        log.contains("operator=") && log.contains("127.0.0.1") && log.contains("POST /orders"),
        "{log}"
    );
    assert!(!log.contains(key), "{log}");
}

#[tokio::test]
async fn an_answer_that_is_recorded_here_is_kept_as_long_as_was_said() {
    let filled = fill::empty().await;
    filled.doubt(id("a7f3")).await;
    let dashboard = Dashboard::start(filled.path(), &["--retention", "90d"], Some(TOKEN));
    let session = dashboard.log_in();
    let told = session.get("/api/session").send().json();
    assert_eq!(told["retention_ms"], 90 * 86_400_000_u64);
    let token = filled.token(&id("a7f3")).await.to_string();
    let body =
        json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": token, "how": { "recorded": { "json": "1" } } });
    assert_eq!(session.post("/api/change/resolve", &body).send().status, 200);
    let record = filled.store.load(&id("a7f3")).await.unwrap().unwrap();
    let State::Completed { completed, expires, .. } = record.state else {
        panic!("{record:?}")
    };
    assert_eq!(expires.since(completed), Duration::from_secs(90 * 86_400));
}

#[tokio::test]
async fn only_the_attempt_that_was_looked_at_goes_on() {
    let filled = fill::empty().await;
    filled.held_steps("a7f3").await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let row = session.get("/api/steps").send().json()["rows"][0].clone();
    let resume = |token: &str| {
        let body = json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": token });
        session.post("/api/change/resume-steps", &body).send()
    };
    assert_eq!(resume("4711").problem(), (409, "changed".to_owned()));
    let held = async || filled.store.load_steps(&id("a7f3")).await.unwrap().unwrap().held;
    assert!(held().await);
    assert_eq!(resume(row["token"].as_str().unwrap()).status, 200);
    assert!(!held().await);
}

#[tokio::test]
async fn a_letter_that_is_dead_no_more_is_not_cancelled() {
    let filled = fill::empty().await;
    filled.order("a7f3", ORDER, &["mail.receipt"]).await;
    let waiting = filled
        .store
        .messages(MessageQuery {
            limit: 1,
            ..MessageQuery::default()
        })
        .await
        .unwrap();
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let cancel = || {
        let body = json!({ "id": waiting[0].id.to_string() });
        session.post("/api/change/cancel", &body).send()
    };
    assert_eq!(cancel().problem(), (409, "changed".to_owned()));
    filled.reject_all(1).await;
    assert_eq!(cancel().status, 200);
}

#[tokio::test]
async fn an_answer_that_was_erased_is_called_that() {
    let filled = fill::empty().await;
    filled.order("a7f3", ORDER, &[]).await;
    filled.store.erase("tenant-7", Erase::Answers, None, 10).await.unwrap();
    let dashboard = Dashboard::reading(filled.path());
    let told = dashboard.get("/api/story?key=a7f3").send();
    let (text, told) = (told.body.clone(), told.json());
    assert_eq!(told["stories"][0]["record"]["result"]["outcome"], "erased");
    let events = told["stories"][0]["events"].to_string();
    assert!(
        events.contains("its answer was erased") && !events.contains("replayed"),
        "{events}"
    );
    assert!(!text.contains(SECRET));
    until("the page", || dashboard.get("/").send().status == 200);
}
