//! `uniflight`: `Merger::execute`, which takes keys by reference and clones them.

use super::{Peer, Side, Value};
use crate::key::Key;
use std::future::Future;
use uniflight::{LeaderPanicked, Merger};

/// A merger.
#[derive(Clone)]
pub struct Uniflight<K: Key>(Merger<K, Value>);

impl<K: Key> Peer<K> for Uniflight<K> {
    const NAME: &'static str = "uniflight";
    const SIDE: Side = Side::Peer;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Result<Value, LeaderPanicked>;

    fn new() -> Self {
        Self(Merger::new())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        // It has its own clone, so the caller's need not be kept.
        self.0.execute(&key, work)
    }

    fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.execute(key, work)
    }

    fn outcome(reply: Self::Reply) -> Result<Value, String> {
        reply.map_err(|error| error.to_string())
    }
}
