//! The promises of the core, `src/flight` and `src/group`: a module for each, in one program, so that what they share is linked
//! once. Sanitizers, valgrind, Miri and mutants run it as well.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod collapse;
mod conflict;
mod fresh;
mod hand_over;
mod idle_driver;
mod oracle;
mod panics;
mod peers;
mod reentrance;
mod results;
mod run_to_completion;
mod waking;

/// A runtime of one worker, and a group that spawns on it and polls its work inside it.
fn group_with_a_runtime() -> (tokio::runtime::Runtime, oneflight::Group<u8, usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let group = oneflight::Group::builder().runtime(runtime.handle().clone()).build();
    (runtime, group)
}
