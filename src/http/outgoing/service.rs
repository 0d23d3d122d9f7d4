//! The service that [`OutgoingLayer`](super::layer::OutgoingLayer) makes.

use std::mem;
use std::task::{Context, Poll};

use http::Method;
use http::header::HeaderValue;
use tower::retry::Retry;
use tower_service::Service;

use super::future::OutgoingFuture;
use super::message::{OutgoingRequest, OutgoingResponse};
use super::policy::{Limits, Tries};
use crate::correlation;
use crate::http::correlation::X_CORRELATION_ID;
use crate::http::key::{IDEMPOTENCY_KEY, header_key};
use crate::random::random_uuid;

/// Sends requests that can be repeated, and repeats them. Made by [`OutgoingLayer`](super::layer::OutgoingLayer), which
/// says what that does.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingService<S> {
    inner: S,
    limits: Limits,
}

impl<S> OutgoingService<S> {
    pub(super) fn new(inner: S, limits: Limits) -> Self {
        Self { inner, limits }
    }
}

impl<S, Q> Service<Q> for OutgoingService<S>
where
    S: Service<Q> + Clone,
    S::Response: OutgoingResponse,
    S::Error: 'static,
    Q: OutgoingRequest,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = OutgoingFuture<S, Q>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Q) -> Self::Future {
        let repeatable = prepare(&mut request);
        // The one that is ready is called.
        let next = self.inner.clone();
        let ready = mem::replace(&mut self.inner, next);
        let mut tries = Retry::new(Tries::begin(self.limits, repeatable), ready);
        OutgoingFuture::new(tries.call(request))
    }
}

/// Adds what a request lacks. Returns whether it may be sent twice.
fn prepare(request: &mut impl OutgoingRequest) -> bool {
    let method = request.method();
    let (minted, idempotent) = ([Method::POST, Method::PATCH].contains(method), method.is_idempotent());
    let headers = request.headers_mut();
    if let Some(id) = correlation::current() {
        headers.entry(X_CORRELATION_ID).or_insert_with(|| id.to_header_value());
    }
    if minted
        && !headers.contains_key(IDEMPOTENCY_KEY)
        // A UUID in quotes always is a valid value.
        && let Ok(key) = HeaderValue::try_from(format!("\"{}\"", random_uuid()))
    {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    // What is no key, a server may take for none.
    idempotent || matches!(header_key(headers), Ok(Some(_)))
}
