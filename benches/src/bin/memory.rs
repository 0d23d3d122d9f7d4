//! Weighs everybody and prints the weights as JSON. A program of its own, since counting allocations costs time.

use oneflight_benches::cases::memory::{Counted, weigh};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn counted() -> Counted {
    let stats = ALLOCATOR.stats();
    Counted {
        live: stats.bytes_allocated as i64 - stats.bytes_deallocated as i64,
        allocations: (stats.allocations + stats.reallocations) as i64,
    }
}

fn main() -> Result<(), serde_json::Error> {
    let weights = weigh(counted);
    serde_json::to_writer(std::io::stdout(), &weights)
}
