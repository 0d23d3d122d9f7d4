//! `moka` as a single flight: `get_with`, and the caller whose work ran invalidates the entry.

use super::{Peer, Side, Value};
use crate::key::Key;
use moka::future::Cache;
use std::future::Future;

const CAPACITY: u64 = 10_000;

/// A cache.
#[derive(Clone)]
pub struct Moka<K: Key>(Cache<K, Value>);

impl<K: Key> Peer<K> for Moka<K> {
    const NAME: &'static str = "moka";
    const SIDE: Side = Side::Peer;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    async fn call<F, W>(&self, key: K, work: F) -> Value
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        let mut ran = false;
        let run = async {
            ran = true;
            work().await
        };
        let value = self.0.get_with(key.clone(), run).await;
        if ran {
            self.0.invalidate(&key).await;
        }
        value
    }

    async fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> Value
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        let mut ran = false;
        let run = async {
            ran = true;
            work().await
        };
        let value = self.0.get_with_by_ref(key, run).await;
        if ran {
            self.0.invalidate(key).await;
        }
        value
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }
}
