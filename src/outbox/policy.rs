//! When a message is tried again, and what becomes of its ordering key: [`Retry`], [`OnDead`].

use std::time::Duration;

use crate::backoff::jittered;

/// When a message is tried again: after pauses that double, of random length between a half and the whole.
///
/// ```
/// use oneflight::outbox::Retry;
/// use std::time::Duration;
///
/// let retry = Retry::new().first_pause(Duration::from_millis(200)).longest_pause(Duration::from_secs(60)).attempts(5);
/// # let _ = retry;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retry {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl Retry {
    /// Makes the default: 1 s, up to an hour, 20 attempts: some eight hours in all.
    pub fn new() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3600),
            attempts: 20,
        }
    }

    /// Sets the pause after the first attempt.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first = pause;
        self
    }

    /// Limits the pause. A target that asks for a longer one by [`DeliveryError::after`](crate::outbox::DeliveryError::after)
    /// gets it.
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest = pause;
        self
    }

    /// Limits the number of attempts. After the last one, the message is a dead letter.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The pause after an attempt, or `None` if it was the last one.
    pub(super) fn after(&self, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        (attempt < self.attempts).then(|| self.pause(attempt, asked))
    }

    /// The pause after an attempt, whichever it was.
    pub(super) fn pause(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << (attempt.saturating_sub(1)).min(30));
        let pause = jittered(doubled.min(self.longest));
        asked.map_or(pause, |asked| asked.max(pause))
    }

    /// Whether a message has been taken too often, which can only be if relays died of it.
    pub(super) fn is_used_up(&self, attempts: u32) -> bool {
        attempts >= self.attempts
    }
}

/// What becomes of the later messages of an ordering key when one is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDead {
    /// They wait until it is redriven or cancelled.
    Block,
    /// They are delivered.
    Skip,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let seconds = Duration::from_secs;
        let retry = Retry::new()
            .first_pause(seconds(2))
            .longest_pause(seconds(10))
            .attempts(5);
        for (attempt, whole) in [(1, 2), (2, 4), (3, 8), (4, 10)] {
            let pause = retry.after(attempt, None).unwrap();
            assert!(
                pause >= seconds(whole) / 2 && pause <= seconds(whole),
                "{attempt}: {pause:?}"
            );
        }
        assert_eq!(retry.after(5, None), None);
        assert_eq!(retry.after(1, Some(seconds(90))), Some(seconds(90)));
    }
}
