//! The future of [`OutgoingService`](super::service::OutgoingService).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::retry::future::ResponseFuture;
use tower_service::Service;

use super::message::{OutgoingRequest, OutgoingResponse};
use super::policy::Tries;

pin_project! {
    /// The response of an [`OutgoingService`](super::service::OutgoingService), after one or several tries.
    ///
    /// Dropping it ends the try that is under way, and no other one follows. What that try has done is not known.
    pub struct OutgoingFuture<S, Q>
    where
        S: Service<Q>,
        S: Clone,
        S::Response: OutgoingResponse,
        S::Error: 'static,
        Q: OutgoingRequest,
    {
        #[pin]
        tries: ResponseFuture<Tries, S, Q>,
    }
}

impl<S, Q> OutgoingFuture<S, Q>
where
    S: Service<Q> + Clone,
    S::Response: OutgoingResponse,
    S::Error: 'static,
    Q: OutgoingRequest,
{
    pub(super) fn new(tries: ResponseFuture<Tries, S, Q>) -> Self {
        Self { tries }
    }
}

impl<S, Q> Future for OutgoingFuture<S, Q>
where
    S: Service<Q> + Clone,
    S::Response: OutgoingResponse,
    S::Error: 'static,
    Q: OutgoingRequest,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().tries.poll(cx)
    }
}

impl<S, Q> fmt::Debug for OutgoingFuture<S, Q>
where
    S: Service<Q> + Clone,
    S::Response: OutgoingResponse,
    S::Error: 'static,
    Q: OutgoingRequest,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingFuture").finish_non_exhaustive()
    }
}
