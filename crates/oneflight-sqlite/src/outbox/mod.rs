//! The outbox: one table, whose rows change their state.
//!
//! SQLite has one writer, so positions are in the order of commits, and a relay's cursor is a position. Everything that
//! a relay asks is a transaction of its own, in its turn among the writers. What has ended is deleted in batches, once
//! it is an hour old; until then its key is known.

mod changes;
mod foreign;
mod rows;
mod store;
mod upkeep;
