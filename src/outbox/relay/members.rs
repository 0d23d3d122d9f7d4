//! Which relays live, and how many shards each of them is to have.
//!
//! A relay counts its signs of life in the store. One whose count has not changed for a whole lease, on the watch of this
//! one, is dead. So no clock is compared with another, and a clock that is set back keeps nothing alive.
//!
//! The watch runs only while this one looks. Of a time in which it did not, because the store was away or the machine was
//! busy, a part counts: the others perhaps could not show any sign either. But some of it has to, or a relay that always
//! looks late would never take over.

use std::collections::HashMap;
use std::time::Duration;

use crate::store::outbox::{Peer, RelayToken, SHARDS};

/// The other relays, as this one has seen them.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// What each has counted, and for how long that has not changed.
    seen: HashMap<RelayToken, (i64, Duration)>,
}

impl Members {
    /// How much of the time since the last look counts.
    pub(super) fn watched(gap: Duration, lease: Duration) -> Duration {
        if gap > lease / 2 { lease / 4 } else { gap }
    }

    /// Takes in what the store has told, so much watched time after the last look.
    pub(super) fn see(&mut self, peers: &[Peer], watched: Duration) {
        self.seen
            .retain(|token, _| peers.iter().any(|peer| peer.token == *token));
        for peer in peers {
            let seen = self.seen.entry(peer.token).or_insert((peer.beats, Duration::ZERO));
            *seen = match seen.0 == peer.beats {
                true => (peer.beats, seen.1 + watched),
                false => (peer.beats, Duration::ZERO),
            };
        }
    }

    /// Those that have shown no sign of life for a whole lease, so much watched time after the last look.
    pub(super) fn dead(&self, lease: Duration, watched: Duration) -> Vec<Peer> {
        let still = self
            .seen
            .iter()
            .filter(|(_, (_, unchanged))| *unchanged + watched >= lease);
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

    fn peer(token: i64, beats: i64) -> Peer {
        Peer {
            token: RelayToken::new(token),
            beats,
        }
    }

    #[test]
    fn who_is_not_seen_for_a_lease_is_dead() {
        let lease = Duration::from_secs(15);
        let third = Members::watched(lease / 3, lease);
        let mut members = Members::default();
        assert_eq!(members.share(), 64);
        members.see(&[peer(1, 4), peer(2, 9)], Duration::ZERO);
        assert_eq!(members.share(), 22);
        members.see(&[peer(1, 5), peer(2, 9)], third);
        members.see(&[peer(1, 5), peer(2, 9)], third);
        assert_eq!(members.dead(lease, Duration::ZERO), []);
        assert_eq!(members.dead(lease, third), [peer(2, 9)]);
        members.see(&[peer(1, 6)], third);
        assert_eq!(members.share(), 32);
        assert_eq!(members.dead(lease, third), []);
    }

    #[test]
    fn who_was_not_looked_at_has_time_to_come_back() {
        let lease = Duration::from_secs(15);
        let mut members = Members::default();
        members.see(&[peer(1, 4)], Duration::ZERO);
        members.see(&[peer(1, 4)], lease / 3);
        // The store was away for a minute.
        let away = Members::watched(Duration::from_secs(60), lease);
        assert_eq!(members.dead(lease, away), []);
        members.see(&[peer(1, 4)], away);
        assert_eq!(members.dead(lease, lease / 3), []);
    }

    #[test]
    fn a_relay_that_always_looks_late_finds_the_dead() {
        let lease = Duration::from_secs(15);
        let late = Members::watched(lease * 2, lease);
        let mut members = Members::default();
        members.see(&[peer(1, 4)], Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(members.dead(lease, late), []);
            members.see(&[peer(1, 4)], late);
        }
        assert_eq!(members.dead(lease, late), [peer(1, 4)]);
    }
}
