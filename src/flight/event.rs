//! What happens to a flight, for those who count and for the log.

use super::failure::Panicked;
use crate::telemetry;

/// What happens to a flight that its owner may want to count.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The driver had left, and another caller polled the work on.
    HandedOver,
    /// The driver was there but not polled, and another caller polled the work on.
    TakenOver,
    /// Every caller had left, and the work went on as a task.
    Abandoned,
    /// Every caller had left, and there was no runtime for the work to go on.
    Unspawnable,
    /// Every caller had left, and the work was dropped.
    Cancelled,
    /// The work was dropped because that was asked for.
    Aborted,
    /// The work panicked.
    Panicked(Panicked),
}

impl Event {
    /// Writes the event's line.
    pub(crate) fn tell(&self) {
        match self {
            Self::HandedOver | Self::TakenOver => telemetry::driver_changed(self),
            Self::Abandoned => telemetry::abandoned(),
            Self::Unspawnable => telemetry::unspawnable(),
            Self::Cancelled => telemetry::cancelled(),
            Self::Aborted => {}
            Self::Panicked(panic) => telemetry::panicked(panic.message()),
        }
    }
}
