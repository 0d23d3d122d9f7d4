//! `DashMap<K, Shared<BoxFuture>>` by hand: the work is boxed once and polled by the caller that waits.
//!
//! The shared future removes its own entry at its end. Nothing else ever removes one, and one is inserted only where
//! there is none, so that the entry it finds is its own.

use super::hasher::ByHand;
use super::{Peer, Side, Value};
use crate::key::Key;
use dashmap::{DashMap, Entry};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::sync::Arc;

type Flight = Shared<BoxFuture<'static, Value>>;

/// The map of shared futures.
#[derive(Clone)]
pub struct SharedByHand<K, S = RandomState>(Arc<DashMap<K, Flight, S>>);

impl<K: Key, S: ByHand> SharedByHand<K, S> {
    fn flight<F, W>(&self, key: K, work: F) -> Flight
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        match self.0.entry(key) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(vacant) => {
                let flights = Arc::clone(&self.0);
                let key = vacant.key().clone();
                let run = async move {
                    let value = work().await;
                    flights.remove(&key);
                    value
                };
                let flight = run.boxed().shared();
                vacant.insert(flight.clone());
                flight
            }
        }
    }
}

impl<K: Key, S: ByHand> Peer<K> for SharedByHand<K, S> {
    const NAME: &'static str = S::SHARED;
    const SIDE: Side = S::SIDE;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Value;

    fn new() -> Self {
        Self(Arc::default())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.flight(key, work)
    }

    fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> impl Future<Output = Value> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        let found = self.0.get(key).map(|flight| flight.clone());
        found.unwrap_or_else(|| self.flight(key.clone(), work))
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }

    fn entries(&self) -> Option<usize> {
        Some(self.0.len())
    }
}
