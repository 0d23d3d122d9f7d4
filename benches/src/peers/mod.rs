//! Every peer that is measured, behind one trait: ourselves, the others, and the floors below which none can be.
//!
//! A peer is driven the way its own documentation says, through the call that fits best, and hands out its own future,
//! wrapped in nothing that it does not need, so that neither the harness's time nor its memory is counted as the
//! peer's. It knows nothing of what is measured.
//!
//! Every caller has an owned key, as a request has: it is cloned for each call and given away. A peer that takes keys
//! by reference can be called with a borrowed one as well.

mod async_singleflight;
mod floor;
mod hasher;
mod moka;
mod once_cell;
mod oneflight;
mod quick_cache;
mod request_coalescer;
mod rs_singleflight;
mod shared;
mod singleflight_async;
mod uniflight;

pub use self::async_singleflight::AsyncSingleflight;
pub use self::floor::{BareWork, MapFloor};
pub use self::moka::Moka;
pub use self::once_cell::OnceCellByHand;
pub use self::oneflight::Oneflight;
pub use self::quick_cache::QuickCache;
pub use self::request_coalescer::RequestCoalescer;
pub use self::rs_singleflight::RsSingleflight;
pub use self::shared::SharedByHand;
pub use self::singleflight_async::SingleflightAsync;
pub use self::uniflight::Uniflight;

use crate::key::Key;
use serde::{Deserialize, Serialize};
use std::future::Future;

/// What every result is: the number that the work was given.
pub type Value = u64;

/// The kind of peer that a figure belongs to, which decides what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Ourselves.
    Ours,
    /// Another library, or what people write by hand, as its documentation has it.
    Peer,
    /// What people write by hand, with our hasher in place of the map's own. Shown, and compared apart.
    Tuned,
    /// No single flight at all, but the least that one could cost.
    Floor,
}

/// A peer that collapses calls onto one execution.
pub trait Peer<K: Key>: Clone + Send + Sync + 'static {
    /// Its name in tables.
    const NAME: &'static str;
    /// The kind of peer that its figures belong to.
    const SIDE: Side;
    /// Why it has no call with a borrowed key, if it has none.
    const BORROWS: Result<(), &'static str> = Err("takes owned keys only");

    /// What a call ends with.
    type Reply: Send;

    /// A new one, with nothing in flight.
    fn new() -> Self;

    /// Runs the work, or shares the result of the work that runs for this key.
    fn call<F, W>(&self, key: K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static;

    /// The same with a borrowed key, which a peer that cannot borrow has to clone.
    fn call_by_ref<'a, F, W>(&'a self, key: &'a K, work: F) -> impl Future<Output = Self::Reply> + Send
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Value> + Send + 'static,
    {
        self.call(key.clone(), work)
    }

    /// What a reply says: the value, or the message of the error.
    fn outcome(reply: Self::Reply) -> Result<Value, String>;

    /// How many keys it holds, if it can tell.
    fn entries(&self) -> Option<usize> {
        None
    }
}

/// What is done with each peer in turn.
pub trait Visitor<K: Key> {
    /// One of them.
    fn visit<P: Peer<K>>(&mut self);
}

/// Visits ourselves and all peers that collapse calls.
pub fn visit_all<K: Key>(visitor: &mut impl Visitor<K>) {
    visitor.visit::<Oneflight<K>>();
    visitor.visit::<OnceCellByHand<K>>();
    visitor.visit::<SharedByHand<K>>();
    visitor.visit::<Uniflight<K>>();
    visitor.visit::<SingleflightAsync<K>>();
    visitor.visit::<AsyncSingleflight<K>>();
    visitor.visit::<RsSingleflight<K>>();
    visitor.visit::<RequestCoalescer<K>>();
    visitor.visit::<Moka<K>>();
    visitor.visit::<QuickCache<K>>();
    visitor.visit::<OnceCellByHand<K, foldhash::quality::RandomState>>();
    visitor.visit::<SharedByHand<K, foldhash::quality::RandomState>>();
}

/// Visits the floors: they collapse nothing, and show what a leader costs at least.
pub fn visit_floors<K: Key>(visitor: &mut impl Visitor<K>) {
    visitor.visit::<BareWork>();
    visitor.visit::<MapFloor<K>>();
}
