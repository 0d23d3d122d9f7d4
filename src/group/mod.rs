//! Collapse within a process: the map of in-flight futures, and the futures handed to callers.
//!
//! A [`Group`] is a namespace of flights. It knows keys, policies and limits. How one flight is shared is the business of the
//! `flight` module below it.

mod builder;
mod drain;
mod drainers;
mod error;
mod handle;
mod hash;
mod home;
mod inner;
mod join;
mod key;
mod map;
mod run;
mod stats;
mod try_run;
mod waits;

pub use self::builder::GroupBuilder;
pub use self::drain::Drain;
pub use self::error::{Error, Limit, TryError};
pub use self::handle::Group;
pub use self::hash::{Hasher, RandomState};
pub use self::join::{Join, Joining};
pub use self::run::{Call, Outcome, Role, Run, Unproven};
pub use self::stats::Stats;
pub use self::try_run::TryRun;
