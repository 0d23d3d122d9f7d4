//! The listener for operators: health, metrics, and reloads.

use std::sync::Arc;

use axum::extract::State as Extracted;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};

use super::state::State;

#[derive(Clone)]
struct Shared {
    state: Arc<State>,
    metrics: PrometheusHandle,
}

/// Makes the service of the listener.
pub(super) fn router(state: Arc<State>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .route("/reload", post(reload))
        .with_state(Shared { state, metrics })
}

/// Whether requests can be answered: the store decides, and of the backend it is said what is known.
async fn ready(Extracted(shared): Extracted<Shared>) -> (StatusCode, Json<Value>) {
    let generation = shared.state.current();
    let (store, backend) = tokio::join!(shared.state.protection.reachable(), generation.forward.accepts());
    let status = match (&store, &backend) {
        (Ok(()), Ok(())) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let said = |result: Result<(), String>| result.map_or_else(Value::from, |()| Value::from("reachable"));
    let told = json!({
        "store": said(store),
        "backend": said(backend.map_err(|failure| failure.to_string())),
    });
    (status, Json(told))
}

async fn render(Extracted(shared): Extracted<Shared>) -> String {
    shared.metrics.render()
}

async fn reload(Extracted(shared): Extracted<Shared>) -> (StatusCode, String) {
    match shared.state.reload() {
        Ok(()) => (StatusCode::OK, "the configuration was read again\n".to_owned()),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
    }
}
