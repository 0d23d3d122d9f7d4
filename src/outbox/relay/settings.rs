//! What can be set of a relay.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::book::Load;
use crate::store::outbox::DeadLetter;

/// What is told of dead letters.
type Tell = Arc<dyn Fn(&DeadLetter) + Send + Sync>;

/// What is told of dead letters, if that is set.
#[derive(Clone, Default)]
pub(super) struct OnDeadLetter(pub(super) Option<Tell>);

impl fmt::Debug for OnDeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "not set" })
    }
}

/// What can be set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) group: Arc<str>,
    pub(super) lease: Duration,
    pub(super) grace: Duration,
    pub(super) buffer: usize,
    pub(super) buffer_bytes: usize,
    pub(super) park_after: Duration,
    pub(super) on_dead_letter: OnDeadLetter,
}

impl Settings {
    /// What is kept with its content at most.
    pub(super) fn limit(&self) -> Load {
        Load {
            messages: self.buffer,
            bytes: self.buffer_bytes,
        }
    }
}
