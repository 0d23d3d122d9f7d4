//! `rs-singleflight`: `Group::do_call`, with its default policy.

use super::{Peer, Side, Value};
use crate::key::Key;
use rs_singleflight::Group;
use std::convert::Infallible;
use std::future::Future;

/// A group.
#[derive(Clone)]
pub struct RsSingleflight<K>(Group<K, Value, Infallible>);

impl<K: Key> Peer<K> for RsSingleflight<K> {
    const NAME: &'static str = "rs-singleflight";
    const SIDE: Side = Side::Peer;

    type Reply = Result<Value, Infallible>;

    fn new() -> Self {
        Self(Group::new())
    }

    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.0.do_call(key, || async { Ok(work().await) })
    }

    fn outcome(reply: Self::Reply) -> Result<Value, String> {
        let Ok(value) = reply;
        Ok(value)
    }

    fn entries(&self) -> Option<usize> {
        Some(self.0.in_flight())
    }
}
