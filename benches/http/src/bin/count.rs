//! Counts allocations and prints the counts as JSON. A program of its own, since counting costs time.

use std::alloc::System;

use oneflight_http_benches::count;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn live() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

fn main() -> Result<(), serde_json::Error> {
    serde_json::to_writer(std::io::stdout(), &count::all(live, allocations))
}
