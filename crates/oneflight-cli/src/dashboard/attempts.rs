//! How often a token that could be guessed may be tried.
//!
//! Each address has a few attempts a minute, and all together have some more, so that one who guesses locks nobody else out, and
//! one who guesses from many addresses is slow as well.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// For how long attempts are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// How many attempts an address has.
const EACH: u32 = 5;
/// How many all have.
const ALL: u32 = 60;

#[derive(Default)]
pub(super) struct Attempts {
    began: Option<Instant>,
    all: u32,
    each: HashMap<IpAddr, u32>,
}

impl Attempts {
    /// Counts an attempt, or says in how long there may be another.
    pub(super) fn ask(&mut self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed >= WINDOW {
            *self = Self {
                began: Some(now),
                ..Self::default()
            };
        } else if self.all >= ALL || self.each.get(&from).is_some_and(|count| *count >= EACH) {
            return Err(WINDOW - passed);
        }
        self.all += 1;
        *self.each.entry(from).or_default() += 1;
        Ok(())
    }

    /// An attempt that succeeded was none.
    pub(super) fn succeeded(&mut self, from: IpAddr) {
        if let Some(count) = self.each.get_mut(&from) {
            *count = count.saturating_sub(1);
            self.all = self.all.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_is_stopped_and_locks_nobody_else_out() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        for _ in 0..EACH {
            assert_eq!(attempts.ask(address(1), start), Ok(()));
        }
        assert_eq!(attempts.ask(address(1), start), Err(WINDOW));
        assert_eq!(attempts.ask(address(2), start), Ok(()));
        for guess in 0..ALL - EACH - 1 {
            assert_eq!(attempts.ask(address(3 + guess as u8), start), Ok(()));
        }
        assert_eq!(attempts.ask(address(200), start), Err(WINDOW));
        assert_eq!(attempts.ask(address(1), start + WINDOW), Ok(()));
    }

    #[test]
    fn an_attempt_that_succeeds_does_not_count() {
        let (mut attempts, start, from) = (Attempts::default(), Instant::now(), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..2 * ALL {
            assert_eq!(attempts.ask(from, start), Ok(()));
            attempts.succeeded(from);
        }
    }
}
