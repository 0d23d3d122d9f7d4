//! How often a call asks the allocator, in the whole process: the call, its flight, and the client of the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::RequestIdentity;
use oneflight::store::{ClaimRequest, Store};

use crate::server::{Server, prefix, server};
use crate::together::{MINUTE, id};

/// How many calls are counted. What happens now and then, such as that a table grows, is little of it.
const CALLS: usize = 1_000;

std::thread_local! {
    /// How often this thread has allocated.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which keeps count.
struct Counting;

#[allow(unsafe_code)]
// SAFETY: all is passed on; what is counted allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_call_allocates_no_more_often_than_this() {
    // All tasks are on one worker, the connection's too.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let server = Server::start(&[]);
    let counted = runtime.spawn(async move {
        let idem = Idempotency::builder(server.store(&prefix()).await).build();
        let ids: Vec<RequestIdentity> = (0..2 * CALLS).map(|number| id(&format!("k{number}"))).collect();
        let (warm, counted) = ids.split_at(CALLS);
        let run = async |ids: &[RequestIdentity], expected| {
            for id in ids {
                let reply = idem.run(id.clone(), |_| async { 1 }).await.unwrap();
                assert_eq!(reply.origin(), expected);
            }
        };
        run(warm, Origin::Executed).await;
        run(warm, Origin::Replayed).await;
        let mut each = Vec::new();
        for expected in [Origin::Executed, Origin::Replayed] {
            let before = ALLOCATED.get();
            run(counted, expected).await;
            each.push((ALLOCATED.get() - before).div_ceil(CALLS));
        }
        each
    });
    let counted = runtime.block_on(counted).unwrap();
    let [executed, replayed] = counted[..] else {
        panic!("{counted:?}")
    };
    // 27 and 20 as this is written. The rest is room for a release of the client or of the runtime that needs one or two more. A step
    // whose texts grow piece by piece needs more than that.
    assert!(
        executed <= 28 && replayed <= 21,
        "executed {executed} times, replayed {replayed} times"
    );
}

/// A flight has a claim's future in an allocation of its own, into which it is copied. What only some questions need is no part of it.
#[tokio::test]
async fn a_question_that_waits_for_its_answer_is_small() {
    let store = server().store(&prefix()).await;
    let identity = id("small");
    let claim = size_of_val(&store.claim(ClaimRequest::new(&identity, MINUTE)));
    let load = size_of_val(&store.load(&identity));
    assert!(claim <= 1_024 && load <= 1_024, "{claim} and {load} bytes");
}
