//! What a browser has to be told so that a page of another origin can use the layer: the Fetch standard, section 3.3.
//!
//! It knows names of headers, and no layer for CORS: any will do.

use http::header::{HeaderName, LINK, LOCATION, RETRY_AFTER};

use super::headers::{IDEMPOTENCY_ORIGIN, IDEMPOTENCY_ORIGINAL_DATE, IDEMPOTENCY_REPLAYED};
use super::layer::IdempotencyLayer;
use crate::http::correlation::{TRACEPARENT, X_CORRELATION_ID, X_REQUEST_ID};

impl IdempotencyLayer {
    /// Returns the headers of requests that a browser sends to another origin only if a preflight was answered with them in
    /// `Access-Control-Allow-Headers`: those that keys are [looked for](Self::keys) in, and those of the correlation id.
    ///
    /// `Content-Type` is to be allowed as well, unless all bodies are forms or plain text.
    ///
    #[cfg_attr(feature = "axum", doc = "```")]
    #[cfg_attr(not(feature = "axum"), doc = "```ignore")]
    /// use axum::{Router, http::header::CONTENT_TYPE, routing::post};
    /// use oneflight::http::layer::IdempotencyLayer;
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    /// use tower_http::cors::CorsLayer;
    ///
    /// let layer = IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build()).unscoped();
    /// let cors = CorsLayer::new()
    ///     .allow_origin(["https://shop.example".parse()?])
    ///     .allow_methods([axum::http::Method::POST])
    ///     .allow_headers([layer.cors_request_headers(), vec![CONTENT_TYPE]].concat())
    ///     .expose_headers(layer.cors_response_headers())
    ///     .max_age(Duration::from_secs(3600));
    /// let app: Router = Router::new()
    ///     .route("/orders", post(|| async { "done" }))
    ///     .layer(layer)
    ///     .layer(cors); // Outside: problems and replays need its headers as well.
    /// # let _ = app;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cors_request_headers(&self) -> Vec<HeaderName> {
        let names = self.settings.keys.names().cloned();
        names.chain([X_CORRELATION_ID, X_REQUEST_ID, TRACEPARENT]).collect()
    }

    /// Returns the headers of answers that a page of another origin sees only if they stand in
    /// `Access-Control-Expose-Headers`: the layer's own, `Retry-After`, `Location`, `Link`, and those of the correlation id.
    ///
    /// See [`cors_request_headers`](Self::cors_request_headers) for an example.
    #[must_use]
    pub fn cors_response_headers(&self) -> Vec<HeaderName> {
        vec![
            IDEMPOTENCY_ORIGIN,
            IDEMPOTENCY_REPLAYED,
            IDEMPOTENCY_ORIGINAL_DATE,
            RETRY_AFTER,
            LOCATION,
            LINK,
            X_CORRELATION_ID,
            X_REQUEST_ID,
        ]
    }
}
