#![doc = include_str!("../README.md")]
//! # How it works
//!
//! Each operation is one script that runs inside the server, alone: atomic, one round trip, on the server's clock. A
//! record is a string. What is completed expires by itself; what is in progress never does. `layout.rs` has how records are
//! written, `names.rs` how keys are named, `tokens.rs` what tokens are made of, and `listen.rs` how callers that wait hear of changes. There are no
//! transactions that a user's own statements could join, so there is no `run_in_tx`.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod connection;
mod doubt;
mod errors;
mod layout;
mod listen;
mod names;
mod options;
mod records;
mod renewals;
mod scripts;
mod step;
mod store;
mod together;
mod tokens;
mod upkeep;

pub use connection::RedisConnection;
pub use options::RedisOptions;
pub use store::RedisStore;
