//! `async_singleflight`: `UnaryGroup::work`, its group for work that cannot fail. It takes keys by reference, and the work
//! as a future, so that every caller makes one.

use super::{Peer, Side, Value};
use crate::key::Key;
use async_singleflight::UnaryGroup;
use std::future::Future;
use std::sync::Arc;

/// A group. It is no handle, so it is shared as its users share it.
#[derive(Clone)]
pub struct AsyncSingleflight<K>(Arc<UnaryGroup<K, Value>>);

impl<K: Key> Peer<K> for AsyncSingleflight<K> {
    const NAME: &'static str = "async_singleflight";
    const SIDE: Side = Side::Peer;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self(Arc::new(UnaryGroup::new()))
    }

    async fn call<F, W>(&self, key: K, work: F) -> Value
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.work(&key, work()).await
    }

    fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.work(key, work())
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }
}
