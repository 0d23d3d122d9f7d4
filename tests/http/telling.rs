//! Promise 20, for HTTP: what is logged while a request is handled is inside a span that has its correlation id.
//!
//! Alone in its program: a thread without a subscriber that makes the span first would have it switched off for all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::lines;

use std::convert::Infallible;

use crate::lines::Lines;
use http::{Request, Response};
use oneflight::http::{CorrelationLayer, X_REQUEST_ID};
use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
use tower::{Layer, ServiceExt, service_fn};

#[test]
fn everything_that_is_logged_during_a_request_carries_its_id() {
    let lines = Lines::default();
    lines::block_on(&lines, async {
        let idem = Idempotency::builder(MemoryStore::new()).build();
        let handler = service_fn(move |_: Request<()>| {
            tracing::info!("called");
            let idem = idem.clone();
            async move {
                tokio::task::yield_now().await;
                tracing::info!("polled");
                let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3").unwrap();
                let work = idem.run(id, |_| async { tracing::info!("worked") });
                let _ = work.await.unwrap();
                Ok::<_, Infallible>(Response::new(()))
            }
        });
        let request = Request::get("/").header(X_REQUEST_ID, "edge-5f2c").body(()).unwrap();
        CorrelationLayer::new().layer(handler).oneshot(request).await.unwrap();
        tracing::info!("after it");
    });
    for told in ["called", "polled", "worked"] {
        let line = lines.the(told);
        assert!(line.contains("oneflight.request{correlation_id=edge-5f2c}"), "{line}");
    }
    assert!(!lines.the("after it").contains("edge-5f2c"));
}
