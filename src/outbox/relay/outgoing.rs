//! What has been decided about messages and not been recorded yet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::store::outbox::{DeadLetter, MessageId, Settlement, Shard, StoredMessage};

/// What the store has not been told yet, and what follows from it in the book.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) settlement: Settlement,
    pub(super) verdicts: Vec<(MessageId, i64, Shard, Verdict)>,
    pub(super) deaths: Vec<Death>,
}

/// A message that is a dead letter once the store knows of it.
pub(super) struct Death {
    pub(super) id: MessageId,
    pub(super) position: i64,
    pub(super) route: usize,
    pub(super) attempts: u32,
    pub(super) error: String,
    pub(super) blocks: bool,
    pub(super) content: Option<Arc<StoredMessage>>,
}

impl Death {
    /// The dead letter, unless its content is gone.
    pub(super) fn letter(self) -> Option<DeadLetter> {
        let content = self.content?;
        Some(DeadLetter {
            id: self.id,
            topic: Arc::clone(&content.topic),
            key: Arc::clone(&content.key),
            ordering_key: content.ordering_key.clone(),
            attempts: self.attempts,
            error: self.error,
            blocks: self.blocks,
            payload: Arc::clone(&content.payload),
        })
    }
}

/// What follows for a message.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Ended,
    Failed(Duration),
    /// To be taken again.
    Released,
    Parked {
        blocks: bool,
    },
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.verdicts.is_empty() && self.settlement.is_empty()
    }

    /// Drops what is of shards that are another relay's: the store would refuse it.
    pub(super) fn lose(&mut self, lost: &HashSet<Shard>) {
        let gone: HashSet<i64> = self
            .verdicts
            .iter()
            .filter(|it| lost.contains(&it.2))
            .map(|(_, position, ..)| *position)
            .collect();
        self.verdicts.retain(|(.., shard, _)| !lost.contains(shard));
        self.deaths.retain(|death| !gone.contains(&death.position));
        let settlement = &mut self.settlement;
        for positions in [
            &mut settlement.delivered,
            &mut settlement.expired,
            &mut settlement.released,
        ] {
            positions.retain(|position| !gone.contains(position));
        }
        settlement.failed.retain(|failed| !gone.contains(&failed.position));
        settlement.parked.retain(|parked| !gone.contains(&parked.position));
        settlement.parts.retain(|part| !gone.contains(&part.position));
    }
}
