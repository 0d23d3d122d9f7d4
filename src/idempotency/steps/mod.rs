//! Mutations of several steps: what a finished step did is recorded, and the next attempt goes on behind it.
//!
//! ```text
//! run_steps ─▶ claim, with name, version and input ─▶ the work ─▶ complete
//!                 │ all steps that are recorded          │
//!                 ▼                                      ▼
//!               Board ◀──── asks, notes ──── Steps::run, Steps::run_in_tx ──one write each, under the token──▶ store
//!                                                 └─ recorded: answered from the board, the step is not run
//! ```
//!
//! A step is looked up by its name and key, never by its position. So steps may run side by side, and a deploy may add
//! steps in between.
//!
//! An attempt ends in one of three ways. The work returns a value: that is the result, and is replayed. It stops, for an
//! error or a panic: the lease ends, and the next call goes on, or a [completer](super::Completer). Or its process dies,
//! or its lease is lost: the same, when the lease is over. A step that was begun and has no record is run again, under
//! the same downstream key.

mod board;
mod claims;
mod execute;
mod handle;
mod operate;
mod run;
mod start;
mod step;
mod transaction;

pub use handle::Steps;
pub use operate::Forked;
pub(super) use start::start;
pub use step::{Step, StepContext};
