//! `DashMap<K, Arc<OnceCell>>` by hand, the first thing that most people write.
//!
//! The caller whose work ran removes the entry, only if it is still the same one, and before the value can be seen:
//! else a later call would find the old value. Any caller may turn out to be that one, so each keeps its key. The entry
//! is asked for at once, with a clone of the key: looking first and cloning only to insert would spare followers the
//! clone, but a leader would lock and hash three times.

use super::hasher::ByHand;
use super::{Peer, Side, Value};
use crate::key::Key;
use dashmap::DashMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The map of cells.
#[derive(Clone)]
pub struct OnceCellByHand<K, S = RandomState>(Arc<DashMap<K, Arc<OnceCell<Value>>, S>>);

impl<K: Key, S: ByHand> Peer<K> for OnceCellByHand<K, S> {
    const NAME: &'static str = S::CELLS;
    const SIDE: Side = S::SIDE;
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
        let cell = Arc::clone(&self.0.entry(key.clone()).or_default());
        let run = || async {
            let value = work().await;
            self.0.remove_if(key, |_, other| Arc::ptr_eq(other, &cell));
            value
        };
        *cell.get_or_init(run).await
    }

    fn outcome(reply: Value) -> Result<Value, String> {
        Ok(reply)
    }

    fn entries(&self) -> Option<usize> {
        Some(self.0.len())
    }
}
