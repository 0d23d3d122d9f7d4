//! Pauses before another attempt. They are of random length, so that attempts that failed together are not repeated together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Returns a number that is unpredictable enough for jitter: the standard library seeds its hashers from the system, once
/// a thread.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Returns a random duration that is shorter than `limit`, in whole microseconds: zero if that is less than one.
///
/// A store adds it to the pauses between its own attempts.
///
/// ```
/// use oneflight::store::jitter;
/// use std::time::Duration;
///
/// let pause = Duration::from_millis(5) + jitter(Duration::from_millis(10));
/// assert!(pause < Duration::from_millis(15));
/// ```
#[must_use]
pub fn jitter(limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random_u64().checked_rem(limit).unwrap_or(0))
}

/// Returns a random part of `pause`: between a half and the whole of it.
pub(crate) fn jittered(pause: Duration) -> Duration {
    // A pause that nobody will see the end of is cut to what can be added up.
    let half = u64::try_from(pause.as_micros() / 2)
        .unwrap_or(u64::MAX)
        .min(u64::MAX / 4);
    Duration::from_micros(half + random_u64() % (half + 1))
}
