//! Ourselves: `Group::run`, and `Group::run_by_ref` for a borrowed key.

use super::{Peer, Side, Value};
use crate::key::Key;
use oneflight::{FlightError, Group, Outcome};
use std::future::Future;

/// A group.
#[derive(Clone)]
pub struct Oneflight<K>(Group<K, Value>);

impl<K: Key> Peer<K> for Oneflight<K> {
    const NAME: &'static str = "oneflight";
    const SIDE: Side = Side::Ours;
    const BORROWS: Result<(), &'static str> = Ok(());

    type Reply = Result<Outcome<Value>, FlightError>;

    fn new() -> Self {
        Self(Group::new())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.run(key, work)
    }

    fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.run_by_ref(key, work)
    }

    fn outcome(reply: Self::Reply) -> Result<Value, String> {
        reply.map(|outcome| outcome.value).map_err(|error| error.to_string())
    }

    fn entries(&self) -> Option<usize> {
        Some(self.0.in_flight())
    }
}
