//! A circuit breaker: a target that fails again and again is left alone for a while.
//!
//! ```text
//! closed ──failures in a row──▶ open ──the pause is over──▶ half open: one message
//!   ▲                            ▲                              │
//!   └────────── success ─────────│──────────────────────────────┤
//!                                └────── failure: twice as long ┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// How long a circuit is open at first, unless that is too long.
const FIRST: Duration = Duration::from_secs(1);

/// The circuit of one target.
#[derive(Debug)]
pub(super) struct Breaker {
    opens_after: u32,
    longest: Duration,
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Makes a closed one, which opens after so many failures, for so long at most.
    pub(super) fn new(opens_after: u32, longest: Duration) -> Self {
        Self {
            opens_after,
            longest,
            failures: 0,
            pause: FIRST.min(longest),
            open_until: None,
        }
    }

    /// How many messages may be delivered, of so many that are wanted, if so many are being delivered.
    pub(super) fn allows(&self, wanted: usize, in_flight: usize, now: Instant) -> usize {
        match self.open_until {
            None => wanted,
            Some(until) if now < until => 0,
            Some(_) => wanted.min(usize::from(in_flight == 0)),
        }
    }

    /// Whether nothing may be delivered for the circuit's sake.
    pub(super) fn is_open(&self, in_flight: usize, now: Instant) -> bool {
        self.allows(1, in_flight, now) == 0
    }

    /// When it is half open, if it is not closed.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.open_until
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.pause, self.open_until) = (0, FIRST.min(self.longest), None);
    }

    /// Returns whether this opened the circuit.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.open_until {
            None => self.failures >= self.opens_after,
            Some(until) => now >= until,
        };
        if opens {
            self.open_until = Some(now + self.pause);
            self.pause = self.pause.saturating_mul(2).min(self.longest);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_a_success() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, Duration::MAX);
        assert!(!breaker.failed(now));
        breaker.succeeded();
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.failed(now));
        assert_eq!(breaker.allows(8, 0, now), 0);
        let later = now + FIRST;
        assert_eq!((breaker.allows(8, 0, later), breaker.allows(8, 1, later)), (1, 0));
        assert!(breaker.is_open(0, now) && !breaker.is_open(0, later) && breaker.is_open(1, later));
        assert!(breaker.failed(later));
        assert_eq!(breaker.allows(8, 0, later + FIRST), 0);
        assert_eq!(breaker.allows(8, 0, later + FIRST * 2), 1);
        breaker.succeeded();
        assert_eq!(breaker.allows(8, 0, later), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_open_for_no_longer_than_it_may_be() {
        let (mut now, short) = (Instant::now(), FIRST / 4);
        for (longest, pauses) in [(FIRST * 3, [1, 2, 3, 3].map(|it| FIRST * it)), (short, [short; 4])] {
            let mut breaker = Breaker::new(1, longest);
            for pause in pauses {
                assert!(breaker.failed(now));
                let just_before = now + pause - Duration::from_millis(1);
                now += pause;
                assert_eq!((breaker.allows(1, 0, just_before), breaker.allows(1, 0, now)), (0, 1));
            }
            breaker.succeeded();
            assert!(breaker.failed(now));
            assert_eq!(breaker.allows(1, 0, now + FIRST.min(longest)), 1);
        }
    }
}
