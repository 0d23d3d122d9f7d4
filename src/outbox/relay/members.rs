//! Which relays live, and how many shards each of them is to have.
//!
//! A relay counts its signs of life in the store. One whose count has not changed for a whole lease, on the watch of this
//! one, is dead. So no clock is compared with another, and a clock that is set back keeps nothing alive.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::outbox::{Peer, RelayToken, SHARDS};

/// The other relays, as this one has seen them.
#[derive(Debug, Default)]
pub(super) struct Members {
    seen: HashMap<RelayToken, (i64, Instant)>,
}

impl Members {
    /// Takes in what the store has told, at this instant.
    pub(super) fn see(&mut self, peers: &[Peer], now: Instant) {
        self.seen
            .retain(|token, _| peers.iter().any(|peer| peer.token == *token));
        for peer in peers {
            let seen = self.seen.entry(peer.token).or_insert((peer.beats, now));
            if seen.0 != peer.beats {
                *seen = (peer.beats, now);
            }
        }
    }

    /// Begins anew to watch all of them: this one was not looking, and they could perhaps not reach the store either.
    pub(super) fn look_anew(&mut self, now: Instant) {
        for (_, since) in self.seen.values_mut() {
            *since = now;
        }
    }

    /// Those that have shown no sign of life for a whole lease.
    pub(super) fn dead(&self, lease: Duration, now: Instant) -> Vec<Peer> {
        let still = self
            .seen
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) >= lease);
        let mut dead: Vec<Peer> = still
            .map(|(token, (beats, _))| Peer {
                token: *token,
                beats: *beats,
            })
            .collect();
        dead.sort_unstable_by_key(|peer| peer.token);
        dead
    }

    /// How many shards each relay is to have, rounded up.
    pub(super) fn share(&self) -> u16 {
        let all = u16::try_from(self.seen.len() + 1).unwrap_or(u16::MAX);
        SHARDS.div_ceil(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_not_seen_for_a_lease_is_dead() {
        let peer = |token, beats| Peer {
            token: RelayToken::new(token),
            beats,
        };
        let (lease, start) = (Duration::from_secs(15), Instant::now());
        let mut members = Members::default();
        assert_eq!(members.share(), 64);
        members.see(&[peer(1, 4), peer(2, 9)], start);
        assert_eq!(members.share(), 22);
        members.see(&[peer(1, 5), peer(2, 9)], start + lease);
        assert_eq!(members.dead(lease, start + lease), [peer(2, 9)]);
        members.look_anew(start + lease);
        assert_eq!(members.dead(lease, start + lease), []);
        assert_eq!(members.dead(lease, start + lease * 2), [peer(1, 5), peer(2, 9)]);
        members.see(&[peer(1, 6)], start + lease);
        assert_eq!(members.share(), 32);
    }
}
