//! The future of [`CorrelationService`](super::service::CorrelationService).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http::header::HeaderValue;
use pin_project_lite::pin_project;

use super::headers::{X_CORRELATION_ID, X_REQUEST_ID};
use crate::correlation::{Correlated, CorrelationId};
use crate::telemetry::InSpan;

pin_project! {
    /// The response of a [`CorrelationService`](super::service::CorrelationService).
    pub struct CorrelationFuture<F> {
        id: CorrelationId,
        request_id: Option<HeaderValue>,
        #[pin]
        called: Correlated<InSpan<F>>,
    }
}

impl<F> CorrelationFuture<F> {
    pub(super) fn new(id: CorrelationId, request_id: Option<HeaderValue>, called: Correlated<InSpan<F>>) -> Self {
        Self { id, request_id, called }
    }
}

impl<F, A, E> Future for CorrelationFuture<F>
where
    F: Future<Output = Result<Response<A>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answered = ready!(this.called.poll(cx));
        if let Ok(response) = &mut answered {
            let headers = response.headers_mut();
            // An answer of as many lines as a map can hold goes without.
            let _ = headers.try_insert(X_CORRELATION_ID, this.id.to_header_value());
            if let Some(request_id) = this.request_id.take() {
                headers.entry(X_REQUEST_ID).or_insert(request_id);
            }
        }
        Poll::Ready(answered)
    }
}

impl<F> fmt::Debug for CorrelationFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CorrelationFuture")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
