//! The dashboard in `docs` shows what the layer counts: all of it, and nothing that is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Idempotency, MemoryStore};
use serde_json::Value;
use tower::Layer;

/// Keeps what the layer says that its metrics are: the kind and the help of each name.
#[derive(Default)]
struct Described(Mutex<BTreeMap<String, (&'static str, String)>>);

impl Described {
    fn add(&self, name: &KeyName, kind: &'static str, help: &SharedString) {
        let described = (kind, help.to_string());
        self.0.lock().unwrap().insert(name.as_str().to_owned(), described);
    }
}

impl Recorder for Described {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "counter", &help);
    }
    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "gauge", &help);
    }
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "histogram", &help);
    }
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn described() -> BTreeMap<String, (&'static str, String)> {
    let recorder = Described::default();
    metrics::with_local_recorder(&recorder, || {
        let idem = Idempotency::builder(MemoryStore::new()).build();
        let _service = IdempotencyLayer::new(idem).unscoped().layer(());
    });
    recorder.0.into_inner().unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../docs/grafana-dashboard.json")).unwrap()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words
        .filter(|word| word.starts_with("oneflight_"))
        .map(str::to_owned)
        .collect()
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_metric_is_on_the_dashboard_and_every_query_asks_for_one() {
    let known = described();
    let names: BTreeSet<_> = known.keys().cloned().collect();
    let mut shown = BTreeSet::new();
    for query in queries(&dashboard()) {
        let asked = named(&query);
        assert!(!asked.is_empty(), "{query}");
        for name in &asked {
            // A counter only rises, so that its rate is what says something; a gauge has none.
            let rises = query.contains(&format!("rate({name}")) || query.contains(&format!("increase({name}"));
            let kind = known.get(name).map(|known| known.0);
            assert_eq!(kind, Some(if rises { "counter" } else { "gauge" }), "{query}");
        }
        shown.extend(asked);
    }
    assert_eq!(shown, names);
    assert!(known.values().all(|(_, help)| !help.is_empty()), "{known:#?}");
}

#[test]
fn the_table_of_metrics_lists_what_the_layer_tells_a_recorder() {
    let rows = include_str!("../../src/telemetry/metrics.md").lines();
    let rows = rows.filter_map(|line| line.strip_prefix("| `oneflight_"));
    let listed: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            (
                format!("oneflight_{}", cells[0].trim_end_matches('`')),
                cells[1].to_owned(),
            )
        })
        .collect();
    let told: BTreeMap<_, _> = described()
        .into_iter()
        .map(|(name, (kind, _))| (name, kind.to_owned()))
        .collect();
    assert_eq!(listed, told);
}

#[test]
fn the_panels_of_the_dashboard_have_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} covers another panel", panel["title"]);
            }
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "job", "route"]);
}
