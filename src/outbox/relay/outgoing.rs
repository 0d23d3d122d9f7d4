//! What has been decided about messages and not been recorded yet.

use std::collections::HashSet;
use std::time::Duration;

use crate::store::outbox::{MessageId, Settlement, Shard};

/// What the store has not been told yet, and what follows from it in the book.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) settlement: Settlement,
    pub(super) verdicts: Vec<(MessageId, i64, Shard, Verdict)>,
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
