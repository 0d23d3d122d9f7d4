//! A relay that runs as a task of its own: [`RelayHandle`], and what can be seen of it: [`Health`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How a relay is, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether the last question to the store was answered. Not before the first one, and not when the relay has ended, with its
    /// runtime perhaps.
    pub is_connected: bool,
    /// How many of the 64 shards it has.
    pub shards: usize,
    /// How many messages it has read that have not ended, those being delivered included.
    pub backlog: usize,
    /// How many messages are being delivered.
    pub in_flight: usize,
    /// How long ago the oldest message that has not ended was sent, by topic. Only topics of the backlog are here, and
    /// what is parked is not. They are looked for now and then.
    pub oldest: BTreeMap<String, Duration>,
    /// How many messages of topics without a target were left alone.
    pub left_alone: u64,
    /// How many attempts were begun.
    pub attempts: u64,
    /// How many messages were delivered.
    pub delivered: u64,
    /// How many became dead letters.
    pub dead: u64,
    /// How many expired.
    pub expired: u64,
    /// How often the store was asked for messages.
    pub polls: u64,
    /// How often there were none.
    pub empty_polls: u64,
    /// How often shards were lost to another relay while this one had them.
    pub lost: u64,
    /// The topics that are [paused](crate::outbox::Outbox::pause), of those that it has a target for. A message of them that has
    /// no ordering key is not in the backlog.
    pub paused: Vec<String>,
    /// The targets whose circuit is open.
    pub open_circuits: Vec<String>,
}

/// What a relay and its handle share.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) health: Mutex<Health>,
}

/// A relay that runs as a task. Dropping this leaves it running.
pub struct RelayHandle {
    pub(super) board: Arc<Board>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
}

impl RelayHandle {
    /// Returns how the relay is, for a probe.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.board.health.lock().clone();
        health.is_connected &= !self.task.is_finished();
        health
    }

    /// Stops the relay: nothing more is taken, deliveries that end within its
    /// [grace](super::RelayBuilder::grace) are recorded, the others are given back without counting as attempts, and
    /// other relays get its shards at once.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the relay stops all the same.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // It ends, or has panicked, which was reported then.
        let _ = self.task.await;
    }
}

impl fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayHandle")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
