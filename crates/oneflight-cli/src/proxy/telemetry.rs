//! What operators see of the proxy: its metrics. The names of the layer's own are `oneflight`'s.
//!
//! | name | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `oneflight_proxy_requests_total` | counter | `route`, `class` (`2xx` …) | answers, by the pattern of the route |
//! | `oneflight_proxy_in_flight` | gauge | | requests that are being answered now |
//! | `oneflight_proxy_upstream_errors_total` | counter | `kind` (`connect`, `broken`, `timed_out`) | exchanges with a backend that gave no answer |
//! | `oneflight_proxy_reloads_total` | counter | `result` (`done`, `failed`) | readings of the configuration after the first |

use std::sync::Arc;

use http::StatusCode;
use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::upstream::Reason;

const REQUESTS: &str = "oneflight_proxy_requests_total";
const IN_FLIGHT: &str = "oneflight_proxy_in_flight";
const UPSTREAM_ERRORS: &str = "oneflight_proxy_upstream_errors_total";
const RELOADS: &str = "oneflight_proxy_reloads_total";

/// Says to the recorder what the metrics are.
pub(super) fn describe() {
    describe_counter!(
        REQUESTS,
        "answers, by the pattern of the route and the class of the status"
    );
    describe_gauge!(IN_FLIGHT, "requests that are being answered now");
    describe_counter!(UPSTREAM_ERRORS, "exchanges with a backend that gave no answer");
    describe_counter!(RELOADS, "readings of the configuration after the first");
}

/// A request that is being answered.
pub(super) struct InFlight(metrics::Gauge);

impl InFlight {
    pub(super) fn begins() -> Self {
        let gauge = gauge!(IN_FLIGHT);
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

pub(super) fn answered(route: &Arc<str>, status: StatusCode) {
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    counter!(REQUESTS, "route" => Arc::clone(route), "class" => class).increment(1);
}

pub(super) fn upstream_failed(reason: Reason) {
    counter!(UPSTREAM_ERRORS, "kind" => reason.as_str()).increment(1);
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
