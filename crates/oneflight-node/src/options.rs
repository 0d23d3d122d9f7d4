//! The settings of an open store, as JavaScript says them. It has checked them: durations are whole milliseconds.

use std::time::Duration;

use napi_derive::napi;

/// How a store is opened. `index.d.ts` documents each.
#[napi(object)]
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub retention_ms: Option<f64>,
    pub lease_ms: Option<f64>,
    pub wait_ms: Option<f64>,
    pub settle_ms: Option<f64>,
    pub purge_every_ms: Option<f64>,
    /// `hold`, `rerun` or `ask`.
    pub recovery: Option<String>,
    pub accept_missing_fingerprint: Option<bool>,
    pub max_result_bytes: Option<u32>,
    pub max_flights: Option<u32>,
    pub max_callers: Option<u32>,
    pub connections: Option<u32>,
    pub schema: Option<String>,
    pub prefix: Option<String>,
    pub migrate: Option<bool>,
    pub prepared_statements: Option<bool>,
}

/// Returns the duration of so many milliseconds. What is no duration counts as none.
pub(crate) fn duration(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::ZERO)
}

/// Returns so many milliseconds. JavaScript has no other number.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
