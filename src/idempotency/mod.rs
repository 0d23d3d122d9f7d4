//! Makes a mutation happen once, across duplicates, processes and crashes: [`Idempotency`].
//!
//! Duplicates that come while the work runs in this process share its flight, in a [group](crate::group). All others meet in the
//! [store](crate::store): one process holds the claim, the others wait for it or are answered from its record. This
//! module joins the two and decides what is recorded. It knows neither SQL nor HTTP.
//!
//! # Which of the four
//!
//! | | the work | its failure | a crash in the middle |
//! | --- | --- | --- | --- |
//! | [`run_in_tx`](Idempotency::run_in_tx) | writes to the store's own database | rolled back, the key is free | rolled back, the key is free |
//! | [`run`](Idempotency::run) | does something elsewhere | is an answer like any other: recorded | in doubt: see [`Recovery`] |
//! | [`try_run`](Idempotency::try_run) | the same, and can tell what became of it | [`NotDone`] frees the key, [`Unknown`] leaves it in doubt | in doubt: see [`Recovery`] |
//! | [`run_steps`](Idempotency::run_steps) | does several things, each a step | the next attempt goes on behind the last finished step | the same |
//!
//! # What is recorded
//! Everything that the work answers once it has begun, failures included: the mutation may have happened. Three
//! exceptions are not recorded: work that says that it did nothing ([`NotDone`]), work that says that it does not know
//! what it did ([`Unknown`]), and what the database undid ([`Rollback`]).
//!
//! After its [retention](IdempotencyBuilder::retention) a key is new again.
//!
//! # What operators see
//!
//! Under the feature `metrics`, these of mutations of steps are told to the recorder of the facade `metrics`. A mutation that is
//! held after a completer's last try is an error in the log besides, and [`CompleterBuilder::on_held`] is told.
//!
#![doc = include_str!("../telemetry/steps.md")]

mod answer;
mod asking;
mod builder;
mod claim;
mod codec;
mod codec_error;
mod completer;
mod context;
mod copies;
mod downstream;
mod error;
mod execute;
mod fly;
mod foreign;
mod later;
mod missing;
mod progress;
mod purge;
mod recovery;
mod reply;
mod resolve;
mod result_ext;
mod run;
mod settled;
mod shared;
mod step_error;
mod steps;
mod transaction;
mod unfinished;
mod workflow;

pub use builder::IdempotencyBuilder;
pub use codec::{Codec, Format, Json};
pub use codec_error::CodecError;
pub use completer::{Completer, CompleterBuilder};
pub use context::Context;
pub use error::{Effect, Error, ErrorKind, RollbackKind};
pub use foreign::{Decided, Foreign};
pub use missing::MissingFingerprint;
pub use recovery::{Doubt, Encoded, Recovery, Resolution};
pub use reply::{Origin, Reply};
pub use resolve::Resolved;
pub use result_ext::ResultExt;
pub use run::Idempotency;
pub use step_error::{StepError, Stopped};
pub use steps::{Forked, Step, StepContext, Steps};
pub use transaction::{Rollback, Tx};
#[cfg(feature = "http")]
pub(crate) use unfinished::AnswerGiven;
pub use unfinished::{NotDone, Unfinished, Unknown};
pub use workflow::Workflow;
