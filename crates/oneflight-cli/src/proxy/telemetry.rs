//! What operators see of the proxy: its metrics, with a table of them in `metrics.md`. The names of the layer's own are `oneflight`'s.
//!
//! All are there with 0 from the start, or from the reload that names a route: a series that appears with 1 has not increased, as far
//! as Prometheus can tell.
//!
#![doc = include_str!("metrics.md")]

use std::sync::Arc;

use http::StatusCode;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use oneflight::http::layer::RouteName;

use super::upstream::{Reason, Untrusted};

const REQUESTS: &str = "oneflight_proxy_requests_total";
const IN_FLIGHT: &str = "oneflight_proxy_in_flight";
const UPSTREAM_ERRORS: &str = "oneflight_proxy_upstream_errors_total";
const SCOPE_CHANGES: &str = "oneflight_proxy_scope_changes_total";
const RELOADS: &str = "oneflight_proxy_reloads_total";

/// Says to the recorder what the metrics are, and those that belong to no route with 0.
pub(super) fn describe() {
    describe_counter!(
        REQUESTS,
        "answers, by the pattern of the route and the class of the status"
    );
    describe_gauge!(IN_FLIGHT, "requests that are being answered now");
    describe_counter!(UPSTREAM_ERRORS, "exchanges with a backend that gave no answer");
    describe_counter!(
        SCOPE_CHANGES,
        "answers that set the cookie of their scope to another value"
    );
    describe_counter!(RELOADS, "readings of the configuration after the first");
    let untrusted = Reason::Untrusted(Untrusted::Other);
    for reason in [Reason::Connect, untrusted, Reason::Broken, Reason::TimedOut] {
        upstream_errors(reason).increment(0);
    }
    for how in [Reloaded::Done, Reloaded::Failed] {
        reloads(how).increment(0);
    }
}

/// Tells the recorder of what is counted of a route, but for its answers.
pub(super) fn announce(route: &Arc<str>) {
    scope_changes(route).increment(0);
    RouteName::new(Arc::clone(route)).announce();
}

/// A request that is being answered.
pub(super) struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    pub(super) fn begins(gauge: &'a Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// The gauge of requests that are being answered.
pub(super) fn in_flight() -> Gauge {
    gauge!(IN_FLIGHT)
}

/// The counters of a route, by the class of the status.
#[derive(Clone)]
pub(super) struct Answers([Counter; 5]);

impl Answers {
    pub(super) fn of(route: &Arc<str>) -> Self {
        Self(["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
            let counter = counter!(REQUESTS, "route" => Arc::clone(route), "class" => class);
            counter.increment(0);
            counter
        }))
    }

    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        if let Some(counter) = self.0.get(class - 1) {
            counter.increment(1);
        }
    }
}

pub(super) fn upstream_failed(reason: Reason) {
    upstream_errors(reason).increment(1);
}

fn upstream_errors(reason: Reason) -> Counter {
    counter!(UPSTREAM_ERRORS, "kind" => reason.as_str())
}

pub(super) fn scope_changed(route: &Arc<str>) {
    scope_changes(route).increment(1);
}

fn scope_changes(route: &Arc<str>) -> Counter {
    counter!(SCOPE_CHANGES, "route" => Arc::clone(route))
}

/// How a reload ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reloaded {
    Done,
    Failed,
}

pub(super) fn reloaded(how: Reloaded) {
    reloads(how).increment(1);
}

fn reloads(how: Reloaded) -> Counter {
    let result = match how {
        Reloaded::Done => "done",
        Reloaded::Failed => "failed",
    };
    counter!(RELOADS, "result" => result)
}
