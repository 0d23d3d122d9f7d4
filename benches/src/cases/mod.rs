//! What is measured: a file for each case, which knows the peers only by their trait and judges nothing.

pub mod abandon;
pub mod fan_in;
pub mod flights;
pub mod gap;
pub mod hand_over;
pub mod hot_path;
pub mod memory;
pub mod tasks;
pub mod threads;
pub mod wakeups;

use std::time::Duration;

/// The value of all work at a gate.
const VALUE: u64 = 4711;

/// Nanoseconds for each of so many.
fn per(time: Duration, count: usize) -> f64 {
    time.as_nanos() as f64 / count as f64
}

/// How often something is repeated in a round, so that about that many calls are made in it.
fn repeats(calls: usize, each: usize) -> usize {
    (calls / each).max(1)
}
