//! The future of a response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use super::execute::BoxFuture;

pin_project! {
    /// The future of a response of [`IdempotencyService`](super::IdempotencyService).
    ///
    /// A request that passes through costs what it costs without the layer. Only one with a key is boxed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a handler that was begun for a request with a key. A request that passes through is
    /// dropped with it.
    pub struct ResponseFuture<F, B, E> {
        #[pin]
        state: State<F, B, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B, E> {
        Through { #[pin] response: F },
        Keyed { response: BoxFuture<Result<Response<B>, E>> },
        Ready { response: Option<Response<B>> },
    }
}

impl<F, B, E> ResponseFuture<F, B, E> {
    pub(super) fn through(response: F) -> Self {
        let state = State::Through { response };
        Self { state }
    }

    pub(super) fn keyed(response: BoxFuture<Result<Response<B>, E>>) -> Self {
        let state = State::Keyed { response };
        Self { state }
    }

    pub(super) fn ready(response: Response<B>) -> Self {
        let response = Some(response);
        let state = State::Ready { response };
        Self { state }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Through { response } => response.poll(cx),
            StateProjection::Keyed { response } => response.as_mut().poll(cx),
            StateProjection::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // It was polled after its end.
                None => Poll::Pending,
            },
        }
    }
}

impl<F, B, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
