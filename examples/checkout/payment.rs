//! The payment's authorisation: a call to another service, slow, and outside of what any transaction of ours can undo.
//!
//! A stand-in, in this process. What it has in common with a real provider is the time it takes, and that it knows a
//! request by its idempotency key: the same key is the same authorisation, however often it is asked for. It has no
//! mind of its own: a real one also declines, which is an answer and would be recorded as the order's.
//!
//! Both handlers call it in the same place, before they write the order. An *authorisation* takes no money yet. It is charged when
//! the order stands, by a message of the order's transaction ([`outward`](crate::outward)); one without an order, left by a
//! crash and never retried, lapses by itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The provider: for which orders it is slow, and how slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Provider {
    /// How long an authorisation takes for a slow order.
    pub(crate) delay: Duration,
    /// How many of 100 orders are slow.
    pub(crate) slow_percent: u8,
}

impl Provider {
    /// Authorises the payment of an order, and returns the authorisation's number.
    ///
    /// `order` is what the shop calls the order; which orders are slow does not change from run to run.
    /// `idempotency_key` is what the provider knows this request by.
    pub(crate) async fn authorise(self, order: &str, idempotency_key: &str) -> String {
        let mut hasher = DefaultHasher::new();
        order.hash(&mut hasher);
        if hasher.finish() % 100 < u64::from(self.slow_percent) {
            tokio::time::sleep(self.delay).await;
        }
        let number: String = idempotency_key.chars().take(16).collect();
        format!("auth-{number}")
    }
}
