//! What operators see of the proxy: its metrics. The names of the layer's own are `oneflight`'s.
//!
//! | name | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `oneflight_proxy_requests_total` | counter | `route`, `class` (`2xx` …) | answers, by the pattern of the route |
//! | `oneflight_proxy_in_flight` | gauge | | requests that are being answered now |
//! | `oneflight_proxy_upstream_errors_total` | counter | `kind` (`connect`, `tls`, `broken`, `timed_out`) | exchanges with a backend that gave no answer |
//! | `oneflight_proxy_scope_changes_total` | counter | `route` | answers that set the cookie of their scope to another value |
//! | `oneflight_proxy_reloads_total` | counter | `result` (`done`, `failed`) | readings of the configuration after the first |

use std::sync::Arc;

use http::StatusCode;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use super::upstream::Reason;

const REQUESTS: &str = "oneflight_proxy_requests_total";
const IN_FLIGHT: &str = "oneflight_proxy_in_flight";
const UPSTREAM_ERRORS: &str = "oneflight_proxy_upstream_errors_total";
const SCOPE_CHANGES: &str = "oneflight_proxy_scope_changes_total";
const RELOADS: &str = "oneflight_proxy_reloads_total";

/// Says to the recorder what the metrics are.
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
        let of = |class: &'static str| counter!(REQUESTS, "route" => Arc::clone(route), "class" => class);
        Self(["1xx", "2xx", "3xx", "4xx", "5xx"].map(of))
    }

    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        if let Some(counter) = self.0.get(class - 1) {
            counter.increment(1);
        }
    }
}

pub(super) fn upstream_failed(reason: Reason) {
    counter!(UPSTREAM_ERRORS, "kind" => reason.as_str()).increment(1);
}

pub(super) fn scope_changed(route: &Arc<str>) {
    counter!(SCOPE_CHANGES, "route" => Arc::clone(route)).increment(1);
}

/// How a reload ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reloaded {
    Done,
    Failed,
}

pub(super) fn reloaded(how: Reloaded) {
    let result = match how {
        Reloaded::Done => "done",
        Reloaded::Failed => "failed",
    };
    counter!(RELOADS, "result" => result).increment(1);
}
