//! Promise 15 in PostgreSQL: nothing is skipped, however late it commits, and the store does not rot. A program of its own,
//! since its tests look at the whole server, and restart some.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
mod support;

mod costs;
mod crashes;
mod forgotten;
mod late_commits;
mod looks;
mod purge;
mod room;
mod sending_steps;
mod surroundings;
