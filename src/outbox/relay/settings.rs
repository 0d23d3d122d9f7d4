//! What can be set of a relay.

use super::book::Load;
use std::sync::Arc;
use std::time::Duration;

/// What can be set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) group: Arc<str>,
    pub(super) lease: Duration,
    pub(super) grace: Duration,
    pub(super) buffer: usize,
    pub(super) buffer_bytes: usize,
    pub(super) park_after: Duration,
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
