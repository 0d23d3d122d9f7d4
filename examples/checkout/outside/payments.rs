//! A stand-in of a payment API that keeps idempotency keys as Stripe's does.
//!
//! | under a key | it answers |
//! | --- | --- |
//! | for the first time | 200, and the charge is made |
//! | again, with the same body | the first answer, and `Idempotent-Replayed: true` |
//! | again, with another body | 400 |
//! | while the first one is being handled | 409 |

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::ledger::{Kept, Ledger};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// It takes so long before it makes a charge, and again before it says so: one that is killed leaves either behind.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
struct Payments {
    ledger: Ledger,
    /// The keys of the requests that are being handled.
    busy: Arc<Mutex<HashSet<String>>>,
}

/// `POST /v1/charges`
pub(super) fn api(ledger: Ledger) -> Router {
    let payments = Payments {
        ledger,
        busy: Arc::default(),
    };
    Router::new().route("/v1/charges", post(charge)).with_state(payments)
}

async fn charge(State(payments): State<Payments>, headers: HeaderMap, body: String) -> Response {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let reference = match serde_json::from_str::<Value>(&body).map(|body| body["reference"].as_str().map(str::to_owned))
    {
        Ok(Some(reference)) => reference,
        _ => {
            return error(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "A charge has a reference.",
            );
        }
    };
    // Without a key, each request is a charge.
    let key = key.map_or_else(|| format!("none-{:032x}", fastrand::u128(..)), str::to_owned);
    let Some(_turn) = Turn::take(&payments.busy, &key) else {
        let told = "A request with this key is being handled.";
        return error(StatusCode::CONFLICT, "idempotency_key_in_use", told);
    };
    match payments.answer(&key, &reference, body).await {
        Ok(response) => response,
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, "api_error", &failure.to_string()),
    }
}

impl Payments {
    async fn answer(&self, key: &str, reference: &str, request: String) -> Result<Response, sqlx::Error> {
        let replayed = match self.ledger.kept(key).await? {
            Some(kept) if kept.request == request => {
                Some(([(REPLAYED, "true"), (CONTENT_TYPE, "application/json")], kept.answer).into_response())
            }
            Some(_) => {
                let told = "Keys can only be used with the parameters they were first used with.";
                Some(error(StatusCode::BAD_REQUEST, "idempotency_error", told))
            }
            None => None,
        };
        if let Some(replayed) = replayed {
            return Ok(replayed);
        }
        tokio::time::sleep(PAUSE).await;
        let answer = json!({ "id": format!("ch_{:032x}", fastrand::u128(..)), "reference": reference }).to_string();
        let kept = Kept { request, answer };
        self.ledger.charge(key, reference, &kept).await?;
        tokio::time::sleep(PAUSE).await;
        Ok(([(CONTENT_TYPE, "application/json")], kept.answer).into_response())
    }
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "type": kind, "message": message } }))).into_response()
}

/// A key, while its request is being handled.
struct Turn {
    busy: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Turn {
    fn take(busy: &Arc<Mutex<HashSet<String>>>, key: &str) -> Option<Self> {
        let is_free = busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned());
        is_free.then(|| Self {
            busy: Arc::clone(busy),
            key: key.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
