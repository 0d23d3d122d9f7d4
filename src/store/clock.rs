//! The clock of a store that has none of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::record::Timestamp;

/// Tells a store the time. It must not go backwards.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock. It is read once and then moved on monotonically, so setting it back does no harm.
#[derive(Clone, Debug)]
pub struct SystemClock {
    started: Instant,
    started_at: Timestamp,
}

impl Default for SystemClock {
    fn default() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_at: Timestamp::default().after(since_epoch),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.started_at.after(self.started.elapsed())
    }
}

/// A clock that stands still until it is [advanced](Self::advance), so that tests need not sleep.
///
/// Clones show the same time.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Makes a clock that shows one second after the epoch.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000)))
    }

    /// Moves the clock on, up to the last representable instant. Fractions of a millisecond count as one.
    pub fn advance(&self, duration: Duration) {
        let millis = Timestamp::default().after(duration).as_millis();
        let later = |now: u64| Some(now.saturating_add(millis));
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_does_not_go_backwards() {
        let clock = ManualClock::new();
        for _ in 0..3 {
            let before = clock.now();
            clock.advance(Duration::MAX);
            assert!(clock.now() >= before);
        }
        assert_eq!(clock.now(), Timestamp::from_millis(u64::MAX));
    }
}
