//! `request_coalescer`: `CoalescingService::execute`.

use super::{Peer, Side, Value};
use crate::key::Key;
use request_coalescer::{CoalescingService, anyhow};
use std::future::Future;
use std::sync::Arc;

/// A service.
#[derive(Clone)]
pub struct RequestCoalescer<K: Key>(CoalescingService<K, Value>);

impl<K: Key> Peer<K> for RequestCoalescer<K> {
    const NAME: &'static str = "request_coalescer";
    const SIDE: Side = Side::Peer;

    type Reply = Result<Arc<Value>, Arc<anyhow::Error>>;

    fn new() -> Self {
        Self(CoalescingService::new())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.execute(key, || async { Ok(work().await) })
    }

    fn outcome(reply: Self::Reply) -> Result<Value, String> {
        reply.map(|value| *value).map_err(|error| error.to_string())
    }
}
