//! One key, one execution.
#[allow(unsafe_code)]
mod flight;
pub mod group;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "durable")]
pub mod idempotency;
pub mod identity;
#[cfg(feature = "durable")]
pub mod record;
#[cfg(feature = "durable")]
pub mod store;
mod sync;

/// For the models only.
#[cfg(oneflight_loom)]
#[doc(hidden)]
pub mod model {
    pub use crate::sync::join_tasks;
}

pub use crate::flight::{Drive, OnAbandon, Panicked};
pub use crate::group::{Error as FlightError, Group, GroupBuilder, Limit, Outcome, Role, Stats, TryError};
pub use crate::identity::Fingerprint;
