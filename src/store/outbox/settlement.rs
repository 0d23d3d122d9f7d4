//! What a relay says of messages that it has taken.

use std::time::Duration;

/// What became of messages that a relay had taken, named by their positions. It is written as a whole.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// Delivered to all of their targets.
    pub delivered: Vec<i64>,
    /// Not delivered, since they have expired.
    pub expired: Vec<i64>,
    /// Given back as if they had not been taken: a shutdown is no attempt.
    pub released: Vec<i64>,
    /// Tried again by this relay, after a pause.
    pub failed: Vec<Failed>,
    /// Set aside for long, or for good.
    pub parked: Vec<Parked>,
    /// Delivered to one of several targets.
    pub parts: Vec<Part>,
}

/// An attempt that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which message.
    pub position: i64,
    /// How long the pause is, for a relay that takes over.
    pub pause: Duration,
    /// What the target said.
    pub error: String,
}

/// A message that is set aside.
#[derive(Clone, Debug)]
pub struct Parked {
    /// Which message.
    pub position: i64,
    /// For how long. `None` is a dead letter.
    pub pause: Option<Duration>,
    /// Whether later messages of its ordering key wait for it.
    pub blocks: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt said.
    pub error: String,
    /// The targets that have it.
    pub done: Vec<String>,
}

/// A message that one of several targets has.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which message.
    pub position: i64,
    /// Which target.
    pub target: String,
}

impl Settlement {
    /// Returns whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delivered.is_empty()
            && self.expired.is_empty()
            && self.released.is_empty()
            && self.failed.is_empty()
            && self.parked.is_empty()
            && self.parts.is_empty()
    }
}
