//! How long placing an order takes: the stand-in for a payment provider, a warehouse, a mail server.
//!
//! Both handlers wait here for equally long, in the same place: after they have decided that the order is to be placed,
//! and before they write it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use oneflight::identity::IdempotencyKey;

/// For which keys the work is slow, and how slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How long the work takes for a slow key.
    pub(crate) delay: Duration,
    /// How many of 100 keys are slow.
    pub(crate) slow_percent: u8,
}

impl Pace {
    /// Waits, if the key is a slow one. Which keys are does not change from run to run.
    pub(crate) async fn work(self, key: &IdempotencyKey) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        if hasher.finish() % 100 < u64::from(self.slow_percent) {
            tokio::time::sleep(self.delay).await;
        }
    }
}
