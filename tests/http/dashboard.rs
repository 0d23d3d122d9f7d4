//! The dashboard in `docs` shows what is counted: all of it, and nothing that is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Idempotency, MemoryStore};
use serde_json::Value;
use tower::Layer;

use crate::recorder::{Described, listed};

/// What the layer says that its metrics are, and those of steps.
fn described() -> BTreeMap<String, (&'static str, String)> {
    Described::during(|| {
        let idem = Idempotency::builder(MemoryStore::new()).build();
        let _service = IdempotencyLayer::new(idem).unscoped().layer(());
    })
}

/// What the tables list: those of relays and of the proxy are compared with them where there are such.
fn all() -> BTreeMap<String, String> {
    let tables = [
        include_str!("../../src/telemetry/metrics.md"),
        include_str!("../../src/telemetry/steps.md"),
        include_str!("../../src/telemetry/relays.md"),
        include_str!("../../crates/oneflight-cli/src/proxy/metrics.md"),
    ];
    tables.into_iter().flat_map(listed).collect()
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
    let known = all();
    let names: BTreeSet<_> = known.keys().cloned().collect();
    let mut shown = BTreeSet::new();
    for query in queries(&dashboard()) {
        let asked = named(&query);
        assert!(!asked.is_empty(), "{query}");
        for name in &asked {
            // A counter only rises, so that its rate is what says something; a gauge has none.
            let rises = query.contains(&format!("rate({name}")) || query.contains(&format!("increase({name}"));
            let kind = known.get(name).map(String::as_str);
            assert_eq!(kind, Some(if rises { "counter" } else { "gauge" }), "{query}");
        }
        shown.extend(asked);
    }
    assert_eq!(shown, names);
}

#[test]
fn the_tables_of_metrics_list_what_a_recorder_is_told() {
    let mut listed = all();
    listed.retain(|name, _| !name.starts_with("oneflight_outbox_") && !name.starts_with("oneflight_proxy_"));
    let told = described();
    assert!(told.values().all(|(_, help)| !help.is_empty()), "{told:#?}");
    let told: BTreeMap<_, _> = told
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
    assert_eq!(variables, ["datasource", "job", "route", "topic", "workflow"]);
}
