//! Promise: a durable call needs little stack, also without optimization. What the work holds is moved into a box once,
//! and not through every layer of its flight.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::thread;

use oneflight::idempotency::{Idempotency, Unfinished};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::{Drive, MemoryStore};
use tokio::runtime::Builder;
use tokio::task::yield_now;

/// What a call is run on: a quarter of the stack that Rust gives a thread.
const STACK: usize = 512 * 1024;
/// What its work holds while it waits.
const HELD: usize = 16 * 1024;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn work() -> usize {
    let held = [1_u8; HELD];
    yield_now().await;
    black_box(&held).len()
}

async fn calls(drive: Drive) {
    let idem = Idempotency::builder(MemoryStore::new()).drive(drive).build();
    assert_eq!(*idem.run(id("run"), |_| work()).await.unwrap(), HELD);
    let tried = idem.try_run(id("try"), |_| async { Ok::<_, Unfinished>(work().await) });
    assert_eq!(*tried.await.unwrap(), HELD);
}

#[test]
fn a_call_whose_work_holds_much_runs_on_a_small_stack() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let small = thread::Builder::new().stack_size(STACK);
        let called = small.spawn(move || runtime.block_on(calls(drive))).unwrap();
        called.join().unwrap();
    }
}
