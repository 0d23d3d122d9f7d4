//! The messages that work sends in its transaction, and the keys that they get.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::store::outbox::Bell;

/// The messages that the work has sent so far.
pub(in crate::idempotency) struct Sending {
    /// The step of the mutation that the transaction is of, as it is known downstream.
    within: Option<String>,
    /// How many of each step, and of each topic those that have no step of their own.
    pub(super) steps: HashMap<Arc<str>, u32>,
    /// That of the store, once the work has sent. Rings when the transaction is over.
    pub(super) bell: Arc<OnceLock<Bell>>,
}

impl Sending {
    /// Of the one transaction of a mutation.
    pub(in crate::idempotency) fn new(bell: Arc<OnceLock<Bell>>) -> Self {
        let (within, steps) = (None, HashMap::new());
        Self { within, steps, bell }
    }

    /// Of a step's transaction: another step may send of the same topic, and that is another message.
    pub(in crate::idempotency) fn within(step: String, bell: Arc<OnceLock<Bell>>) -> Self {
        let (within, steps) = (Some(step), HashMap::new());
        Self { within, steps, bell }
    }

    /// The text that the key of a message is derived from. No name of a step has the character between.
    pub(super) fn known_as(&self, step: String) -> String {
        match &self.within {
            Some(within) => format!("step {within}\u{1e}{step}"),
            None => step,
        }
    }
}
