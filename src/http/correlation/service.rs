//! The service that [`CorrelationLayer`](super::layer::CorrelationLayer) makes.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::CorrelationFuture;
use super::headers::request_id;
use crate::correlation::{self, CorrelationId};
use crate::telemetry;

/// Gives every request its correlation id. Made by [`CorrelationLayer`](super::layer::CorrelationLayer), which says what
/// that does.
#[derive(Clone, Copy, Debug)]
pub struct CorrelationService<S> {
    inner: S,
}

impl<S> CorrelationService<S> {
    /// Wraps a service.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, A> Service<Request<B>> for CorrelationService<S>
where
    S: Service<Request<B>, Response = Response<A>>,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = CorrelationFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = CorrelationId::of_request(&request);
        let request_id = request_id(request.headers(), &id);
        request.extensions_mut().insert(id.clone());
        let span = telemetry::RequestSpan::new(&id);
        // A service may do more than to make a future.
        let called = correlation::in_scope(id.clone(), || span.enter(|| self.inner.call(request)));
        CorrelationFuture::new(id.clone(), request_id, correlation::scope(id, span.around(called)))
    }
}
