//! Which topics are paused, and which messages are held or passed over for that.
//!
//! `pausing.rs` says what becomes of them. This file knows neither the book nor the relay.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::store::outbox::{MessageId, StoredMessage};

/// The number of topics from which on those are forgotten that no message has.
const FORGET: usize = 1024;

/// What is paused, as the book keeps it.
#[derive(Debug, Default)]
pub(super) struct Paused {
    pub(super) topics: HashSet<Arc<str>>,
    /// Messages that would be ready.
    pub(super) held: HashSet<MessageId>,
    /// Topics of which messages are in the store alone.
    pub(super) passed_over: HashSet<Arc<str>>,
}

impl Paused {
    pub(super) fn has(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    /// Whether a message is only passed over: nothing has to wait for it.
    pub(super) fn passes_over(&mut self, message: &StoredMessage) -> bool {
        let passes = message.ordering_key.is_none() && self.topics.contains(&message.topic);
        if passes {
            self.passed_over.insert(Arc::clone(&message.topic));
        }
        passes
    }

    /// Holds a message that would be ready, unless it has expired.
    pub(super) fn holds(&mut self, id: MessageId, topic: &str, expires: Option<Instant>, now: Instant) -> bool {
        let holds = self.topics.contains(topic) && expires.is_none_or(|at| at > now);
        if holds {
            self.held.insert(id);
        }
        holds
    }

    pub(super) fn forget(&mut self, id: MessageId) {
        self.held.remove(&id);
    }
}

/// The topics of messages, each of them once in the memory.
#[derive(Debug, Default)]
pub(super) struct Topics {
    known: HashSet<Arc<str>>,
    forget_at: usize,
}

impl Topics {
    pub(super) fn of(&mut self, topic: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(topic) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.forget_at.max(FORGET) {
            self.known.retain(|topic| Arc::strong_count(topic) > 1);
            self.forget_at = self.known.len() * 2;
        }
        self.known.insert(Arc::clone(topic));
        Arc::clone(topic)
    }
}
