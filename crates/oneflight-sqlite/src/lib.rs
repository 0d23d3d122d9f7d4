#![doc = include_str!("../README.md")]
//! # How it works
//!
//! SQLite has one writer at a time. Reads never wait for it (WAL), so every claim first *reads*: a replay, a conflict
//! and "in progress elsewhere" take no lock. Writers queue in process, first come first served. Then they begin with
//! `BEGIN IMMEDIATE`, so that a transaction never fails half-way for want of the lock. Other processes are waited for
//! with small, jittered pauses until a deadline.
//!
//! Claims, results, releases and renewals that are wanted while another one is written go together in the next
//! transaction, which is one wait for the disk for all. A thread of the store's own does that, from when it is first
//! needed until the store is dropped. It makes the renewals of several leases as well.
//!
//! Over a pool of your own in WAL mode, the store writes on a connection of its own beside it. [`SqliteStore::from_pool`] says what
//! that asks of you: above all, end with [`SqliteStore::close`], and leave the file alone until that has returned.
//!
//! The time is the database's: `unixepoch('subsec')` in SQL, in milliseconds. All processes are on one machine, hence
//! on one clock. If the clock is set back, leases and retention last longer by as much. If it is set forward, what ends
//! within that time ends at once: a live holder whose lease is over may be taken over before it renews, as if it had
//! died.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod alone;
mod answers;
mod batch;
mod begun;
mod beside;
mod busy;
mod change;
mod claims;
mod ending;
mod erase;
#[cfg(test)]
mod faults;
mod file;
mod foreign;
mod gathered;
mod guess;
mod handed;
mod in_doubt;
mod lent;
mod manager;
mod open;
mod outbox;
mod queue;
mod records;
mod renewals;
mod renewed;
mod schema;
mod seal;
mod settings;
mod step_store;
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod together;
mod transaction;
mod unfinished;
mod upkeep;
mod works;
mod writer;

pub use open::SqliteOptions;
pub use store::SqliteStore;
