//! What else a group does: a module for each promise, in one program, so that what they share is linked once.

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod counters;
mod large_results;
mod send;
mod telemetry;
