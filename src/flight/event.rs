//! What happens to a flight, to be counted and logged.

use super::failure::Panicked;
use crate::telemetry;

/// What happened to a flight.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The driver had left, and another caller went on with the work.
    HandedOver,
    /// The driver was there but not polled, and another caller went on with the work.
    TakenOver,
    /// Every caller had left, and the work went on as a task.
    Abandoned,
    /// Every caller had left, and there was no runtime to finish the work on.
    Unspawnable,
    /// Every caller had left, and the work was dropped.
    Cancelled,
    /// The work was dropped because the flight was aborted.
    Aborted,
    /// The work panicked.
    Panicked(Panicked),
}

impl Event {
    /// Logs the event.
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
