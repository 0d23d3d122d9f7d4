//! What delivers messages: [`Relay`].
//!
//! ```text
//!            ┌───────────────────────── one task ─────────────────────────┐
//! store ───▶ │ read ─▶ book (order, pauses) ─▶ take ─▶ ... ─▶ settle      │ ───▶ store
//!            └───────────────────────────────────│──────▲─────────────────┘
//!                                                ▼      │
//!                                       a task for each batch: target
//! ```
//!
//! One task owns all that the relay knows, and does one thing at a time: it shows signs of life, reads, takes messages
//! that may be delivered, and records what became of them. Deliveries are tasks of their own, so none of them holds up
//! a sign of life.
//!
//! * **Order.** All messages of an ordering key are in one shard, and a shard has one relay. So order is this relay's
//!   own affair ([`book`]): the first message of a key that has not ended is the only one that may be delivered.
//! * **Leases.** A relay whose signs of life are not seen for a whole lease, on the watch of another one, is dead, and its
//!   shards are divided anew ([`members`]). Nobody's clock is asked. What a relay without its shard says of a message is
//!   refused by the store.
//! * **Attempts** are counted when a message is taken, so that one which kills its relay is not tried for ever.
//! * **Trouble.** If the store cannot be reached, the relay tries again, after pauses that grow up to 5 s, and loses
//!   nothing of what it has to record meanwhile.

mod book;
mod breaker;
mod builder;
mod classes;
mod flights;
mod handle;
mod members;
mod outgoing;
mod paused;
mod pausing;
mod reading;
mod routes;
mod run;
mod settings;
mod settling;
mod taking;

pub use builder::{Relay, RelayBuildError, RelayBuilder};
pub use handle::{Health, RelayHandle};
