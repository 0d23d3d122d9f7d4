//! `singleflight-async`: `SingleFlight::work`.

use super::{Peer, Side, Value};
use crate::key::Key;
use singleflight_async::SingleFlight;
use std::future::Future;
use std::sync::Arc;

/// A class of work. It is no handle, so it is shared as its users share it.
#[derive(Clone)]
pub struct SingleflightAsync<K>(Arc<SingleFlight<K, Value>>);

impl<K: Key> Peer<K> for SingleflightAsync<K> {
    const NAME: &'static str = "singleflight-async";
    const SIDE: Side = Side::Peer;

    type Reply = Value;

    fn new() -> Self {
        Self(Arc::default())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.work(key, work)
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }
}
