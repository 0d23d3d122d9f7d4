//! Stores that have an outbox: what a message is to them, and the trait that a relay works with.
//!
//! ```text
//!             send_in (in the user's transaction)
//!                  │
//!   delayed ┌──────┴──────┐ due
//!           ▼             ▼     fetch, take                       settle
//!        parked ──due──▶ ring ───────────▶ in the hands of a relay ─┬─▶ ended: delivered, expired, cancelled
//!           ▲                                   ▲                   ├─▶ failed: again after a pause, by the same relay
//!           │                                   └───────────────────┘
//!           └──── a long pause, or dead ────────────────────────────┘
//! ```
//!
//! The store keeps messages and what became of them. It knows no targets, decides nothing about order, and pauses for
//! nothing: that is the relay's. What it sees to is that one relay at a time has a [`Shard`], that an answer of a relay
//! which has lost a shard is refused, and that a cancelled message is never taken.

mod bell;
mod contract;
mod message;
mod settlement;
mod shard;
mod upkeep;

pub(crate) use bell::AtEnd;
pub use bell::{Bell, Listener};
pub use contract::{Beat, Beaten, Blocker, Cursor, OutboxStore, Page, Peer, RelayToken, Taken};
pub use message::{
    Cancelled, DeadLetter, MessageId, NewMessage, PAGE_PAYLOAD_BYTES, Postponed, Sent, StoredMessage, TraceParent,
    TraceParentError,
};
pub use settlement::{Failed, Parked, Part, Settlement};
pub use shard::{SHARDS, Shard, shard_of};
pub use upkeep::{MessageEntry, MessageQuery, MessageState, OutboxUpkeep, RelayEntry, TopicBacklog};
