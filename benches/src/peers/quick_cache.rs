//! `quick_cache` as a single flight: `get_or_insert_async`, which takes keys by reference, and the caller whose work ran
//! removes the entry.

use super::{Peer, Side, Value};
use crate::key::Key;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

const CAPACITY: usize = 10_000;

/// A cache. It is no handle, so it is shared as its users share it.
#[derive(Clone)]
pub struct QuickCache<K>(Arc<Cache<K, Value>>);

impl<K: Key> Peer<K> for QuickCache<K> {
    const NAME: &'static str = "quick_cache";
    const SIDE: Side = Side::Peer;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self(Arc::new(Cache::new(CAPACITY)))
    }

    async fn call<F, W>(&self, key: K, work: F) -> Value
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.call_by_ref(&key, work).await
    }

    async fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> Value
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        let mut ran = false;
        let run = async {
            ran = true;
            Ok::<_, Infallible>(work().await)
        };
        let Ok(value) = self.0.get_or_insert_async(key, run).await;
        if ran {
            self.0.remove(key);
        }
        value
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }

    fn entries(&self) -> Option<usize> {
        Some(self.0.len())
    }
}
