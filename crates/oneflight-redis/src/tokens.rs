//! Fencing tokens: what they are made of, and what can and cannot send them backwards.
//!
//! ```text
//! token = count × 1024 + shard            count = max(last count of the shard + 1, the server's microseconds)
//! ```
//!
//! A token has to be larger than every one before it, also when the record is long gone, and when the server has
//! forgotten what it had acknowledged. Neither a counter nor a clock does that alone:
//!
//! * **A counter** that is kept in the server goes backwards when the server does: a failover to a replica that had not
//!   received the last writes, a restart from an older file.
//! * **A clock** goes backwards when it is set, and from one machine to the next.
//! * **The larger of both** goes backwards only if both do: if writes were lost *and* the clock of the server that goes
//!   on is behind that of the one that failed, by more than the time between the two claims in question. A failover
//!   that waits seconds before it begins outlasts the difference of clocks that are kept by NTP.
//!
//! The counter is kept for each of 1024 shards, never expires, and is all that stays of an identity: 1024 lists a prefix at
//! most, each of one entry where nothing is in progress. It is a score in that list, so that one command draws the token and
//! lists the record; a list that is deleted or rebuilt is a counter that is forgotten. The shard is part of the token, so no two tokens of a store are the same. Those of one identity grow
//! under all conditions above, those of two shards as the clock of the server does.
//!
//! If both go backwards, it is noticed. A process remembers the largest count that it has seen of each shard, and sends
//! it along. The server goes on above that, and says if it had to be told; then the store says so too
//! ([`RedisStore::setbacks`](super::RedisStore::setbacks), and a warning). A token that no live process has seen is
//! missed by none.
//!
//! Counts stay below 9 × 10^15, up to where Lua counts exactly: microseconds do until the year 2255.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use oneflight::record::FencingToken;

/// The number of shards. It must never change: an identity's counter is that of its shard.
pub(super) const SHARDS: u16 = 1024;

/// The number of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard(u16);

impl Shard {
    /// Makes a shard of a number below [`SHARDS`].
    pub(super) const fn new(number: u16) -> Self {
        Self(number % SHARDS)
    }

    /// Returns the shard that drew a token, and what it counted then.
    pub(super) fn of(token: FencingToken) -> (Self, u64) {
        let (count, shard) = (token.get() / u64::from(SHARDS), token.get() % u64::from(SHARDS));
        // A remainder of a number of 16 bits has no more.
        (Self(u16::try_from(shard).unwrap_or_default()), count)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    pub(super) const fn number(self) -> u16 {
        self.0
    }

    /// Returns the slot of a cluster in which all keys of the shard are: CRC-16/XMODEM of the tag, as a cluster counts.
    pub(super) fn slot(self) -> u16 {
        let tag = self.0.to_string();
        let crc = tag.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| match crc & 0x8000 {
                0 => crc << 1,
                _ => (crc << 1) ^ 0x1021,
            })
        });
        crc % 16_384
    }

    /// Returns the token for a count of this shard, or `None` if it counts further than tokens do.
    pub(super) fn token(self, count: u64) -> Option<FencingToken> {
        let token = count.checked_mul(u64::from(SHARDS))?.checked_add(u64::from(self.0))?;
        Some(FencingToken::new(token))
    }

    /// Returns what this shard counted when it drew a token, or `None` if it did not draw it.
    pub(super) fn count(self, token: FencingToken) -> Option<u64> {
        let (shard, count) = Self::of(token);
        (shard == self).then_some(count)
    }

    /// Returns the smallest count whose token is larger than this one.
    pub(super) fn count_after(self, token: FencingToken) -> u64 {
        let (shard, count) = Self::of(token);
        count + u64::from(shard.0 >= self.0)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest count that this process has seen of each shard.
pub(super) struct Seen {
    counts: Box<[AtomicU64]>,
    setbacks: AtomicU64,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            counts: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            setbacks: AtomicU64::new(0),
        }
    }

    // Relaxed, all of it: a count that is read too late makes a setback unnoticed for a moment, and nothing else
    // depends on it.
    pub(super) fn largest(&self, shard: Shard) -> u64 {
        self.counts[usize::from(shard.0)].load(Ordering::Relaxed)
    }

    pub(super) fn see(&self, shard: Shard, count: u64) {
        self.counts[usize::from(shard.0)].fetch_max(count, Ordering::Relaxed);
    }

    pub(super) fn set_back(&self) {
        self.setbacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn setbacks(&self) -> u64 {
        self.setbacks.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_count_and_a_shard() {
        let (first, last) = (Shard::new(0), Shard::new(SHARDS - 1));
        let largest = (1 << 53) - 1;
        for (shard, count) in [(first, 1), (last, 1), (first, largest), (last, largest)] {
            let token = shard.token(count).unwrap();
            assert_eq!(shard.count(token), Some(count));
            assert!(i64::try_from(token.get()).is_ok());
        }
        assert_eq!(first.count(last.token(1).unwrap()), None);
        assert!(first.token(2).unwrap() > last.token(1).unwrap());
        assert_eq!(last.token(u64::MAX), None);
    }

    #[test]
    fn a_shard_is_in_the_slot_of_its_tag() {
        // As `CLUSTER KEYSLOT` answers.
        for (shard, slot) in [(0, 13_907), (1, 9842), (417, 10_613)] {
            assert_eq!(Shard::new(shard).slot(), slot, "{shard}");
        }
    }

    #[test]
    fn what_comes_after_a_token_is_larger_in_every_shard() {
        let token = Shard::new(417).token(9).unwrap();
        for shard in Shard::all() {
            let next = shard.count_after(token);
            assert!(shard.token(next).unwrap() > token);
            assert!(shard.token(next - 1).unwrap() <= token);
        }
        assert_eq!(
            Shard::new(0).count_after(FencingToken::new(u64::MAX)),
            u64::MAX / 1024 + 1
        );
    }

    #[test]
    fn what_was_seen_does_not_shrink() {
        let seen = Seen::new();
        seen.see(Shard::new(3), 7);
        seen.see(Shard::new(3), 5);
        assert_eq!((seen.largest(Shard::new(3)), seen.largest(Shard::new(4))), (7, 0));
    }
}
