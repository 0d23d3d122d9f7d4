//! The backends: connections to them, and one exchange over one of these.
//!
//! ```text
//! Upstreams ──which one──▶ Pool ──idle, or connect──▶ Connection ──exchange──▶ head ──▶ AnswerBody ──end──▶ Pool
//! ```
//!
//! A connection is polled by the task that uses it, and by none while it is idle: no request changes tasks on its way.

mod address;
mod answer;
mod connection;
mod failure;
mod idle;
mod outgoing;
mod pool;
mod stream;
mod trust;

pub(super) use address::Address;
pub(super) use failure::{Failure, Reason, Sent, Untrusted};
pub(super) use outgoing::{Gate, Outgoing};
pub(super) use pool::{Limits, Pool};
pub(super) use trust::Trust;
