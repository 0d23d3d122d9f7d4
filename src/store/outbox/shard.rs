//! The parts into which an outbox is divided among relays: [`Shard`].

use crate::identity::Fingerprint;

/// The number of shards of an outbox.
pub const SHARDS: u16 = 64;

/// One of the parts into which an outbox is divided among relays. All messages of an ordering key are in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    /// Makes the shard of this number, counted from 0.
    #[must_use]
    pub fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// Returns the shard of an ordering key.
#[must_use]
pub fn shard_of(ordering_key: &str) -> Shard {
    let digest = Fingerprint::of(ordering_key);
    Shard::new(u16::from(digest.as_bytes()[0]) % SHARDS)
}
