//! What a mutation does to the outside world: written in its own transaction, delivered after the commit.
//!
//! ```text
//! Tx::send, Outbox::send ──commit──▶ the store's outbox ──▶ Relay ──▶ Target
//! ```
//!
//! A [`Message`] is part of the transaction that sends it: both commit, or neither does. A [`Relay`] delivers it to a
//! [`Target`] afterwards, at least once, under a key by which the target recognises a repetition, and in order within
//! its ordering key. A message ends delivered, cancelled, expired or as a dead letter. It is never lost.
//!
//! # What operators see
//!
//! [`RelayHandle::health`] is for a probe. Under the feature `tracing` a dead letter is an error in the log, and
//! [`RelayBuilder::on_dead_letter`] is told. Under the feature `metrics`, these are told to the recorder of the facade `metrics`:
//!
#![doc = include_str!("../telemetry/relays.md")]
//!
//! # What it knows
//!
//! This module knows no SQL. What it asks of a store is [`OutboxStore`](crate::store::OutboxStore).

mod delivery;
mod error;
mod explain;
mod handle;
#[cfg(feature = "reqwest")]
mod http;
mod message;
mod policy;
mod relay;
mod target;
mod upkeep;

pub use crate::store::outbox::{Cancelled, DeadLetter, MessageId, Postponed, Sent, TraceParent, TraceParentError};
pub use delivery::{Delivery, DeliveryError};
pub use error::{SendError, SendErrorKind};
pub use explain::{Explanation, Life, Reason};
pub use handle::Outbox;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use http::{Answered, HttpTarget, HttpTargetError, Verdict};
pub use message::Message;
pub use policy::{OnDead, Retry};
pub use relay::{Health, Relay, RelayBuildError, RelayBuilder, RelayHandle};
pub use target::{Target, TargetOptions};
pub use upkeep::Redriving;
