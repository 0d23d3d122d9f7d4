//! The floors: the work alone, and the least that any library does which keeps a map of what is in flight.

use super::{Peer, Side, Value};
use crate::key::Key;
use dashmap::DashMap;
use std::future::Future;
use std::sync::Arc;

/// The work and nothing else, the clone of the key apart.
#[derive(Clone)]
pub struct BareWork;

impl<K: Key> Peer<K> for BareWork {
    const NAME: &'static str = "floor: the work alone";
    const SIDE: Side = Side::Floor;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        // Or else the clone would be optimised away.
        drop(std::hint::black_box(key));
        work()
    }

    fn call_by_ref<'a, F, W>(&'a self, _: &'a K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        work()
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }
}

/// The key cloned, inserted into a `DashMap`, and removed after the work. One clone is enough for that, since the
/// measuring code still has the first one.
#[derive(Clone)]
pub struct MapFloor<K>(Arc<DashMap<K, ()>>);

impl<K: Key> Peer<K> for MapFloor<K> {
    const NAME: &'static str = "floor: DashMap insert, work, remove";
    const SIDE: Side = Side::Floor;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self(Arc::default())
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
        self.0.insert(key.clone(), ());
        let value = work().await;
        self.0.remove(key);
        value
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }
}
