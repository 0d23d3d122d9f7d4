//! The dashboard in `docs`, the tables in `src/telemetry`, and what a Prometheus endpoint says, have the same names.
//!
//! The recorder is that of `metrics-exporter-prometheus`, as `oneflight proxy` installs it. Requests, a relay and a completer are
//! led into everything that is counted; and a proxy of its own has all of its metrics before it counts anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use oneflight::http::layer::{IdempotencyLayer, Outcome};
use oneflight::idempotency::{Step, Steps, Stopped};
use oneflight::outbox::{Delivery, DeliveryError, Retry, TargetOptions};
use oneflight::store::outbox::OutboxUpkeep;
use oneflight::{Idempotency, Message, Relay};
use oneflight_sqlite::SqliteStore;
use tower::ServiceExt;

use crate::client;
use crate::fill::{self, id};
use crate::proxy::{Home, Proxy};
use crate::support::{Dashboard, PATIENCE, until};

const OFTEN: Duration = Duration::from_millis(20);

/// The names that a text has, each as a whole word.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words
        .filter(|word| word.starts_with("oneflight_"))
        .map(str::to_owned)
        .collect()
}

const REQUESTS: &str = include_str!("../../../../src/telemetry/metrics.md");
const RELAYS: &str = include_str!("../../../../src/telemetry/relays.md");
const STEPS: &str = include_str!("../../../../src/telemetry/steps.md");
const PROXY: &str = include_str!("../../src/proxy/metrics.md");

/// What tables list.
fn listed(tables: &[&str]) -> BTreeSet<String> {
    let rows = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter(|line| line.starts_with("| `oneflight_"));
    rows.flat_map(|row| names(row.split('|').nth(1).unwrap())).collect()
}

/// What the queries of the Grafana dashboard ask for, those of its variables included.
fn asked() -> BTreeSet<String> {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../../docs/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries = targets.map(|target| &target["expr"]);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = queries.chain(variables.iter().map(|variable| &variable["query"]["query"]));
    queries.filter_map(|query| query.as_str()).flat_map(names).collect()
}

/// What an endpoint says: each series with its value.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The names of what an endpoint says: only what has a value.
fn exported(text: &str) -> BTreeSet<String> {
    let series = series(text).into_keys();
    series
        .filter_map(|series| series.split('{').next().map(str::to_owned))
        .collect()
}

/// What the page of this command computes its rates from.
fn computed() -> BTreeSet<String> {
    let source = include_str!("../../src/dashboard/rates.rs");
    let constants = source
        .lines()
        .filter(|line| line.starts_with("const ") && line.contains("&str"));
    constants.flat_map(names).collect()
}

#[test]
fn the_grafana_dashboard_the_tables_and_a_prometheus_endpoint_have_the_same_names() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let filled = fill::empty().await;
            traffic(&filled.store).await;
            relay(&filled.store, &handle).await;
            steps(&filled.store, &handle).await;
        });
    });
    let (exported, mut listed, asked) = (exported(&handle.render()), listed(&[REQUESTS, RELAYS, STEPS]), asked());
    assert!(listed.len() >= 30, "{listed:?}");
    assert_eq!(exported, listed, "the endpoint, and the tables in src/telemetry");
    listed.extend(self::listed(&[PROXY]));
    assert_eq!(asked, listed, "docs/grafana-dashboard.json, and the tables");
    let computed = computed();
    assert!(computed.len() >= 7 && computed.is_subset(&exported), "{computed:?}");
    let alerts = include_str!("../../../../docs/operations.md");
    let (_, alerts) = alerts.split_once("groups:").unwrap();
    let alerts = names(alerts.split("```").next().unwrap());
    assert!(alerts.len() >= 10 && alerts.is_subset(&listed), "{alerts:?}");
}

/// Reads requests, and ends their connections without an answer.
fn dying() -> SocketAddr {
    use std::io::Read;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_has_just_begun_shows_all_of_its_metrics_with_zero_and_its_first_doubt_is_a_rise() {
    let home = Home::new();
    let route = "[[route]]\npath = \"/orders\"\nscope = \"none\"\n";
    let proxy = Proxy::before(&home, dying(), route);
    let scraped = async || client::get(proxy.admin, "/metrics").await.text();
    let text = scraped().await;
    let before = series(&text);
    assert!(before.values().all(|value| *value == 0.0), "{text}");
    assert_eq!(
        exported(&text),
        listed(&[REQUESTS, PROXY]),
        "the endpoint, and the tables"
    );
    let page = include_str!("../../../../docs/proxy.md");
    assert_eq!(listed(&[page]), listed(&[PROXY]), "docs/proxy.md, and the table");
    for name in exported(&text) {
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} says nothing of itself"
        );
    }

    let send = async || client::keyed(proxy.address, "8e03978e", "item=tea").await.status;
    assert_eq!(send().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send().await, StatusCode::CONFLICT);
    let text = scraped().await;
    let after = series(&text);
    assert!(after.keys().eq(before.keys()), "a series that appears: {text}");
    let risen: Vec<_> = after.iter().filter(|(_, value)| **value > 0.0).collect();
    let expected = [
        (r#"oneflight_in_doubt_total{route="/orders"}"#, 1.0),
        (r#"oneflight_proxy_requests_total{route="/orders",class="4xx"}"#, 1.0),
        (r#"oneflight_proxy_requests_total{route="/orders",class="5xx"}"#, 1.0),
        (r#"oneflight_proxy_upstream_errors_total{kind="broken"}"#, 1.0),
        (
            r#"oneflight_refused_total{route="/orders",kind="outcome_unknown"}"#,
            1.0,
        ),
    ];
    let risen: Vec<_> = risen.into_iter().map(|(series, value)| (&**series, *value)).collect();
    assert_eq!(risen, expected);

    // And so it is on the page.
    let filled = fill::empty().await;
    let url = format!("http://{}/metrics", proxy.admin);
    let dashboard = Dashboard::start(filled.path(), &["--metrics", &url, "--metrics-every", "300ms"], None);
    let mut told = serde_json::Value::Null;
    until("two scrapes", || {
        told = dashboard.get("/api/metrics").send().json();
        told["rates"]["known"] == true
    });
    let all = told["rates"]["all"].as_object().unwrap();
    assert!(all.len() >= 9 && all.values().all(|rate| rate == 0.0), "{told:#}");
    assert_eq!(told["endpoints"][0]["series"], after.len(), "{told:#}");
}

fn app(store: &SqliteStore, answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Router {
    let idem = Idempotency::builder(store.clone()).settle(Duration::ZERO).build();
    let layer = IdempotencyLayer::new(idem).unscoped().required();
    let handler = move |_: Bytes| {
        let answer = answer();
        async move { answer }
    };
    Router::new().route("/orders", post(handler)).layer(layer)
}

async fn send(app: &Router, key: &str, body: &'static str) -> StatusCode {
    let request = Request::post("/orders")
        .header("idempotency-key", key)
        .body(Body::from(body));
    app.clone().oneshot(request.unwrap()).await.unwrap().status()
}

/// Each of what may become of a request.
async fn traffic(store: &SqliteStore) {
    let tea = app(store, || ([("set-cookie", "a=1")], "tea").into_response());
    for body in ["tea", "tea", "coffee"] {
        send(&tea, "k-1", body).await;
    }
    assert_eq!(send(&tea, " ", "tea").await, StatusCode::BAD_REQUEST);
    let unknown = app(store, || {
        (StatusCode::BAD_GATEWAY, Outcome::Unknown, "?").into_response()
    });
    for _ in 0..2 {
        send(&unknown, "k-2", "tea").await;
    }
    let secret = app(store, || (Outcome::OutcomeOnly, "hush").into_response());
    for _ in 0..2 {
        send(&secret, "k-3", "tea").await;
    }
    let closed = fill::empty().await;
    let away = app(&closed.store, || "tea".into_response());
    closed.store.pool().close().await;
    assert_eq!(send(&away, "k-4", "tea").await, StatusCode::SERVICE_UNAVAILABLE);
}

/// Waits until the endpoint says that this has happened.
async fn until_said(handle: &PrometheusHandle, beginning: &str, is_so: impl Fn(f64) -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let text = handle.render();
        let values = text
            .lines()
            .filter(|line| line.starts_with(beginning))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        if values.into_iter().any(&is_so) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{beginning} never came:\n{text}");
        tokio::time::sleep(OFTEN).await;
    }
}

/// A message that is delivered, and a target that is left alone after its first failure.
async fn relay(store: &SqliteStore, handle: &PrometheusHandle) {
    let idem = Idempotency::builder(store.clone()).build();
    let sent = idem.run_in_tx(id("a7f3"), |mut tx| async move {
        for topic in ["mail.receipt", "crm.contact"] {
            let _ = tx.send(Message::text(topic, "order 7")).await?;
        }
        Ok(())
    });
    let _ = sent.await.unwrap();
    let delivers = |_: Delivery| async { Ok::<(), DeliveryError>(()) };
    let fails = |_: Delivery| async { Err::<(), _>(DeliveryError::retry("busy")) };
    let options = TargetOptions::new()
        .circuit_breaker(1)
        .retry(Retry::new().first_pause(OFTEN));
    let relay = Relay::builder(store.clone())
        .target("mail.*", delivers)
        .target_with("crm.*", fails, options)
        .build()
        .unwrap()
        .spawn();
    until_said(handle, "oneflight_outbox_delivered_total{", |count| count > 0.0).await;
    until_said(handle, "oneflight_outbox_open_circuits{", |open| open > 0.0).await;
    store.pause("mail.receipt").await.unwrap();
    until_said(handle, "oneflight_outbox_paused{", |topics| topics > 0.0).await;
    relay.stop().await;
}

/// Steps that are done, are held, and are handed back.
async fn steps(store: &SqliteStore, handle: &PrometheusHandle) {
    let idem = Idempotency::builder(store.clone()).build();
    for (key, workflow) in [("b8e4", "charge"), ("c9d5", "wait")] {
        let orders = idem.with_workflow(workflow);
        let begun = orders.run_steps(id(key), &7, |steps| async move {
            steps.run("reserve", |_| async { Ok::<_, std::io::Error>(1) }).await?;
            Err::<u32, _>(Stopped::because("its client never comes back"))
        });
        let _ = begun.await.map(|_| ()).unwrap_err();
    }
    let charge = |_: u32, steps: Steps<SqliteStore>| async move {
        steps.run("reserve", |_| async { Ok::<_, std::io::Error>(1) }).await?;
        let once = Step::new("charge").at_most_once();
        steps.run(once, |_| async { Err::<u32, _>("timed out") }).await
    };
    let begun = Arc::new(tokio::sync::Notify::new());
    let goes_on = Arc::new(tokio::sync::Notify::new());
    let (begins, go_on) = (Arc::clone(&begun), Arc::clone(&goes_on));
    let wait = move |_: u32, steps: Steps<SqliteStore>| {
        let (begins, goes_on) = (Arc::clone(&begins), Arc::clone(&goes_on));
        async move {
            begins.notify_one();
            steps.run("reserve", |_| async { Ok::<_, std::io::Error>(1) }).await?;
            steps
                .run("wait", |_| async move {
                    goes_on.notified().await;
                    Ok::<_, std::io::Error>(1)
                })
                .await?;
            steps.run("not begun", |_| async { Ok::<_, std::io::Error>(1) }).await
        }
    };
    let completer = idem
        .completer()
        .handler("charge", charge)
        .handler("wait", wait)
        .every(OFTEN)
        .spawn()
        .unwrap();
    until_said(handle, "oneflight_mutations_held_total{", |count| count > 0.0).await;
    begun.notified().await;
    // It is told to stop while the step runs, and then the step ends.
    tokio::join!(completer.stop(), async { go_on.notify_one() });
    until_said(handle, "oneflight_mutations_handed_back_total{", |count| count > 0.0).await;
}
