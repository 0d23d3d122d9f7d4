//! Which relays live: those that show a sign of life while they are watched.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oneflight::store::StoreError;
use oneflight::store::outbox::{OutboxUpkeep, RelayEntry, RelayToken};

/// How long a sign of life is waited for: relays with a lease of 15 s show one every 5 s.
pub(super) const SHOWN_WITHIN: Duration = Duration::from_secs(7);
/// How often is looked for one.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

/// What was seen of relays.
#[derive(Debug)]
pub(super) struct Lives {
    /// Those that have shown no sign of life.
    silent: HashMap<RelayToken, i64>,
    watched: Duration,
}

impl Lives {
    /// Watches until each of them has shown a sign of life, or for so long.
    pub(super) async fn watch<S: OutboxUpkeep>(
        store: &S,
        relays: &[RelayEntry],
        within: Duration,
    ) -> Result<Self, StoreError> {
        let mut silent: HashMap<_, _> = relays.iter().map(|relay| (relay.token, relay.beats)).collect();
        let begun = Instant::now();
        while !silent.is_empty() && begun.elapsed() < within {
            tokio::time::sleep(LOOKS_EVERY).await;
            let now = store.relays().await?;
            let now: HashMap<_, _> = now.iter().map(|relay| (relay.token, relay.beats)).collect();
            // One that is gone has left, or was missed by the others.
            silent.retain(|token, beats| now.get(token) == Some(beats));
        }
        Ok(Self {
            silent,
            watched: within,
        })
    }

    /// Returns how many have shown none.
    pub(super) fn silent(&self) -> usize {
        self.silent.len()
    }

    /// Returns whether one has shown a sign of life, or `None` if it was not watched.
    pub(super) fn of(&self, token: RelayToken) -> Option<bool> {
        (!self.watched.is_zero()).then(|| !self.silent.contains_key(&token))
    }

    /// Returns for how long they were watched.
    pub(super) fn watched(&self) -> Duration {
        self.watched
    }
}
