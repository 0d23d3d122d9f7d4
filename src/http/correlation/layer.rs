//! The layer of [`CorrelationService`].

use tower_layer::Layer;

use super::service::CorrelationService;

/// Gives every request its correlation id: in a task-local, in a span, in the request's extensions, and in the response.
///
/// The id is the one that the request [carries](crate::correlation::CorrelationId::from_headers), or a new one. Then:
///
/// * [`correlation::current`](crate::correlation::current) returns it while the request is handled, and in the work that
///   the handler gives to [`Idempotency`](crate::Idempotency). `oneflight-postgres` shows it in the server's own log.
/// * Under the feature `tracing`, everything that is logged meanwhile is inside the span `oneflight.request`, whose field
///   `correlation_id` it is.
/// * The extensions of the request have it, for extractors such as axum's `Extension<CorrelationId>`. An id that stands
///   there already is kept, so that the layer may be used more than once.
/// * The response has it as `X-Correlation-Id`, in place of any that was there, such as one of a recorded response. If the
///   request had an `X-Request-Id`, the response gets that one back, unless the handler has set its own. If it was not well
///   formed, the response has the correlation id in its place.
///
/// The body of the response is sent after that, without the task-local.
///
/// Add it outside of what logs, answers errors or records. Nothing is boxed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, Response};
/// use oneflight::correlation;
/// use oneflight::http::CorrelationLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let service = ServiceBuilder::new()
///     .layer(CorrelationLayer::new())
///     .service(service_fn(async |_: Request<String>| {
///         let id = correlation::current().map(|id| id.to_string());
///         Ok::<_, std::convert::Infallible>(Response::new(id.unwrap_or_default()))
///     }));
///
/// let request = Request::get("/").header("X-Request-Id", "edge-5f2c").body(String::new())?;
/// let response = service.oneshot(request).await?;
/// assert_eq!(response.body(), "edge-5f2c");
/// assert_eq!(response.headers()["X-Correlation-Id"], "edge-5f2c");
/// assert_eq!(response.headers()["X-Request-Id"], "edge-5f2c");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CorrelationLayer;

impl CorrelationLayer {
    /// Makes the layer.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for CorrelationLayer {
    type Service = CorrelationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CorrelationService::new(inner)
    }
}
