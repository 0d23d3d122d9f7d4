//! The durable state of a request identity, and the form in which a result is kept.
//!
//! ```text
//! absent ──claim──▶ in progress ──complete──▶ completed ──retention ends──▶ absent
//!    ▲                │      ▲
//!    └────release─────┘      └── takeover, once the lease has expired (another token)
//! ```
//!
//! Only a [store](crate::store) moves a record along these arrows, each in one atomic step. This module holds what all
//! stores share: the words of the record, and the encoding of a result. It knows neither SQL nor the type of the
//! result.

use std::fmt;
use std::time::Duration;

use crate::identity::Fingerprint;

mod holder;
mod result;

pub use holder::HolderId;
#[cfg(feature = "http")]
pub(crate) use result::HTTP;
pub(crate) use result::JSON;
pub use result::{CodecId, DecodeError, Decoded, RecordedResult, Verdict};

/// An instant on the *store's* clock, in milliseconds since the Unix epoch.
///
/// Instants of two stores, or of a store and this machine, are not comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Makes a timestamp of milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns this instant moved on, up to the last representable one. Fractions of a millisecond count as one.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self(self.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// Returns how long after `earlier` this is, or zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The number that outdates an earlier holder: a store only hands out larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Wraps the store's number.
    #[must_use]
    pub const fn new(token: u64) -> Self {
        Self(token)
    }

    /// Returns the store's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a store knows of a request identity, as it was at one instant. A store makes it with [`new`](Self::new).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The digest of the payload that it was claimed with.
    pub fingerprint: Option<Fingerprint>,
    /// The token of the claim that wrote this.
    pub token: FencingToken,
    /// The holder that claimed.
    pub holder: HolderId,
    /// How often this identity was claimed and not released: 1 the first time.
    pub attempt: u32,
    /// The state of the request.
    pub state: State,
    /// When the store read this, on its own clock.
    pub observed: Timestamp,
    /// Whether this, once in doubt, waits for an operator's decision. Then it is not taken over because its lease is
    /// over, but only by a claim that [names its token](crate::store::Takeover::Of). False unless set.
    pub held: bool,
}

/// The state of a request that has a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// A holder has the claim, or had it and died.
    InProgress {
        /// Until when the holder counts as alive.
        lease_expires: Timestamp,
    },
    /// The work was done and its result is kept.
    Completed {
        /// The result to replay.
        result: RecordedResult,
        /// When it was completed.
        completed: Timestamp,
        /// When the identity becomes new again.
        expires: Timestamp,
    },
}

impl Record {
    /// Makes a record, as a store reads it at the instant `observed`.
    #[must_use]
    pub fn new(
        fingerprint: Option<Fingerprint>,
        token: FencingToken,
        holder: HolderId,
        attempt: u32,
        state: State,
        observed: Timestamp,
    ) -> Self {
        Self {
            fingerprint,
            token,
            holder,
            attempt,
            state,
            observed,
            held: false,
        }
    }

    /// Returns how long the holder's lease still runs: zero once it has expired, `None` for what is completed.
    #[must_use]
    pub fn lease_remaining(&self) -> Option<Duration> {
        match self.state {
            State::InProgress { lease_expires } => Some(lease_expires.since(self.observed)),
            State::Completed { .. } => None,
        }
    }

    /// Returns the result, if the request is completed.
    #[must_use]
    pub fn result(&self) -> Option<&RecordedResult> {
        match &self.state {
            State::InProgress { .. } => None,
            State::Completed { result, .. } => Some(result),
        }
    }

    /// Returns whether this is completed and past its retention. Such a record counts as absent.
    #[must_use]
    pub fn is_past_retention(&self) -> bool {
        match self.state {
            State::InProgress { .. } => false,
            State::Completed { expires, .. } => expires <= self.observed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_and_rounds_up() {
        let at = Timestamp::from_millis(10);
        assert_eq!(at.after(Duration::from_nanos(1)).as_millis(), 11);
        assert_eq!(at.after(Duration::MAX).as_millis(), u64::MAX);
        assert_eq!(at.since(Timestamp::from_millis(11)), Duration::ZERO);
    }
}
