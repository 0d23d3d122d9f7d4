//! A store in memory that has the time of the test's runtime. Where that is paused, no time passes as long as there is anything to do,
//! however slow the machine is; and what is waited for takes none.

use oneflight::record::Timestamp;
use oneflight::store::{Clock, MemoryStore};
use tokio::time::Instant;

struct OfTheRuntime(Instant);

impl Clock for OfTheRuntime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000).after(self.0.elapsed())
    }
}

pub(crate) fn store() -> MemoryStore {
    MemoryStore::with_clock(OfTheRuntime(Instant::now()))
}
