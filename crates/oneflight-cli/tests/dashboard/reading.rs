//! What is shown: whole, in pages, without a payload, and whatever is away.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::fill::{self, CLOSING, ORDER, SECRET, harmful};
use crate::support::{Dashboard, until};

#[tokio::test]
async fn two_thousand_records_are_shown_page_by_page() {
    let filled = fill::empty().await;
    filled.answered(2000).await;
    let dashboard = Dashboard::reading(filled.path());
    let (mut keys, mut after, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let path = format!("/api/records?state=completed&after={}", escaped(&after));
        let page = dashboard.get(&path).send();
        assert!(page.body.len() < 64 * 1024, "a page of {} bytes", page.body.len());
        let page = page.json();
        let rows = page["rows"].as_array().unwrap();
        assert!(rows.len() <= 25, "{} rows", rows.len());
        for row in rows {
            assert!(keys.insert(row["key"].as_str().unwrap().to_owned()), "{row} came twice");
        }
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(keys.len(), 2000);
    assert!(pages >= 80, "{pages}");
    let none = dashboard.get("/api/records?scope=tenant-70").send().json();
    assert_eq!(none["rows"], json!([]));
}

#[tokio::test]
async fn a_story_has_the_claim_the_messages_and_the_end_by_key_and_by_correlation_id() {
    let filled = fill::empty().await;
    filled.order("a7f3", ORDER, &["mail.receipt", "crm.contact"]).await;
    filled.order("b8e4", "edge-other", &["mail.receipt"]).await;
    filled.reject_all(3).await;
    filled.held_steps("c9d5").await;
    let dashboard = Dashboard::reading(filled.path());
    for path in [
        "/api/story?key=a7f3".to_owned(),
        format!("/api/story?correlation_id={ORDER}"),
    ] {
        let told = dashboard.get(&path).send();
        assert!(!told.body.contains(SECRET), "{path}");
        let told = told.json();
        let [story] = told["stories"].as_array().unwrap().as_slice() else {
            panic!("{told:#}")
        };
        assert_eq!(
            (&story["record"]["key"], &story["record"]["correlation_id"]),
            (&json!("a7f3"), &json!(ORDER))
        );
        assert_eq!(story["record"]["result"]["outcome"], "performed");
        let messages = story["messages"].as_array().unwrap();
        let topics: Vec<_> = messages
            .iter()
            .map(|message| message["topic"].as_str().unwrap())
            .collect();
        assert_eq!(topics, ["mail.receipt", "crm.contact"]);
        for message in messages {
            assert_eq!(
                (&message["state"], &message["payload_bytes"]),
                (&json!("dead"), &json!(SECRET.len()))
            );
            assert!(message["error"].as_str().unwrap().contains(CLOSING));
        }
        let titles: Vec<_> = titles(story);
        assert_eq!(
            titles.first().map(String::as_str),
            Some("Claimed: attempt 1"),
            "{titles:?}"
        );
        for part in [
            "Sent mail.receipt",
            "Sent crm.contact",
            "Dead letter: mail.receipt",
            "Completed",
            "Retention ends",
        ] {
            assert_eq!(
                titles.iter().filter(|title| title.starts_with(part)).count(),
                1,
                "{part}: {titles:?}"
            );
        }
        let times: Vec<_> = story["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|event| event["at_ms"].as_u64())
            .collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    let told = dashboard.get("/api/story?key=c9d5").send().json();
    let titles = titles(&told["stories"][0]);
    assert!(
        titles.contains(&"Step reserve done".to_owned()) && titles.contains(&"Step charge begun".to_owned()),
        "{titles:?}"
    );
    let unfinished = dashboard.get("/api/steps").send().json();
    assert_eq!(
        (&unfinished["rows"][0]["key"], &unfinished["rows"][0]["held"]),
        (&json!("c9d5"), &json!(true))
    );
    let nothing = dashboard.get("/api/story?key=never").send().json();
    assert_eq!((&nothing["stories"], &nothing["messages"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn dead_letters_come_with_their_errors_and_topics_with_their_backlog() {
    let filled = fill::empty().await;
    filled.order("a7f3", ORDER, &["mail.receipt", "crm.contact"]).await;
    filled.reject_all(2).await;
    filled.order("b8e4", ORDER, &["mail.receipt"]).await;
    let dashboard = Dashboard::reading(filled.path());
    let dead = dashboard.get("/api/dead").send();
    assert!(!dead.body.contains(SECRET));
    let dead = dead.json();
    assert_eq!(
        (dead["rows"].as_array().unwrap().len(), &dead["next"]),
        (2, &json!(null))
    );
    let of_mail = dashboard.get("/api/dead?topic=mail.receipt").send().json();
    assert_eq!(of_mail["rows"].as_array().unwrap().len(), 1);
    let outbox = dashboard.get("/api/outbox").send().json();
    let topics = outbox["topics"].as_array().unwrap();
    let mail = topics.iter().find(|topic| topic["topic"] == "mail.receipt").unwrap();
    assert_eq!(
        (&mail["waiting"], &mail["dead"], &mail["paused"]),
        (&json!(1), &json!(1), &json!(false))
    );
    assert!(mail["oldest_ms"].is_u64());
}

#[tokio::test]
async fn what_is_in_doubt_is_told_as_it_is_and_not_as_markup() {
    let filled = fill::empty().await;
    filled.doubt(harmful()).await;
    let dashboard = Dashboard::reading(filled.path());
    let answer = dashboard.get("/api/records?state=in_doubt").send();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let told = answer.json();
    let row = &told["rows"][0];
    assert_eq!(
        (row["key"].as_str(), row["scope"].as_str()),
        (Some(harmful().key()), Some(harmful().scope()))
    );
    assert_eq!((&row["state"], &row["attempt"]), (&json!("in_doubt"), &json!(1)));
}

#[tokio::test]
async fn rates_come_of_two_scrapes_and_an_endpoint_that_is_away_stops_none() {
    let filled = fill::empty().await;
    let asked = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&asked);
    let present = endpoint(move || {
        let count = counts.fetch_add(1, Ordering::Relaxed);
        let mut text = "# TYPE oneflight_requests_total counter\n".to_owned();
        for (origin, by) in [("executed", 10), ("collapsed", 20), ("replayed", 40)] {
            text += &format!(
                "oneflight_requests_total{{route=\"/orders\",origin=\"{origin}\"}} {}\n",
                count * by
            );
        }
        text + "oneflight_waiters{route=\"/orders\"} 3\noneflight_in_flight{route=\"/orders\"} 2\nother_total 1\n"
    });
    let broken = endpoint(|| "<html>no metrics</html>".to_owned());
    let away = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let urls = [present, broken, away].map(|address| format!("http://{address}/metrics"));
    let mut arguments: Vec<_> = urls.iter().flat_map(|url| ["--metrics", url]).collect();
    arguments.extend(["--metrics-every", "300ms"]);
    let dashboard = Dashboard::start(filled.path(), &arguments, None);
    let mut told = Value::Null;
    until("a rate", || {
        told = dashboard.get("/api/metrics").send().json();
        told["rates"]["known"] == true
    });
    let all = &told["rates"]["all"];
    let rate = |name: &str| all[name].as_f64().unwrap();
    assert!(rate("executed") > 0.0, "{told:#}");
    // The same time is under all of them.
    for (origin, times) in [("collapsed", 2.0), ("replayed", 4.0)] {
        assert!((rate(origin) / rate("executed") - times).abs() < 1e-6, "{told:#}");
    }
    assert_eq!((rate("waiters"), rate("in_flight")), (3.0, 2.0));
    assert_eq!(told["rates"]["routes"][0]["route"], "/orders");
    let states: Vec<_> = (0..3)
        .map(|at| told["endpoints"][at]["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["present", "away", "away"], "{told:#}");
    assert!(
        told["endpoints"][1]["error"].as_str().unwrap().contains("line 1"),
        "{told:#}"
    );
    assert!(
        told["endpoints"][2]["error"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("connect"),
        "{told:#}"
    );
}

fn titles(story: &Value) -> Vec<String> {
    let events = story["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["title"].as_str().unwrap().to_owned())
        .collect()
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Answers every request with a text, until the test is over.
pub fn endpoint(text: impl Fn() -> String + Send + 'static) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let text = text();
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            let _ = stream.write_all((head + &text).as_bytes());
        }
    });
    address
}
