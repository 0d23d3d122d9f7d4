//! A result may be large: 64 KiB by value pass through every way to call on a stack of 2 MiB, the size of a runtime's thread,
//! also without optimization, where each move is a copy of its own. (An overflow ends the process.)

use oneflight::{Drive, Group, Role};
use std::sync::Arc;
use tokio::task::yield_now;

const STACK: usize = 2 * 1024 * 1024;

#[derive(Clone)]
struct Large([u8; 64 * 1024]);

async fn large() -> Large {
    yield_now().await;
    Large([7; 64 * 1024])
}

/// Runs a call on a thread with such a stack, in a runtime.
fn on_a_small_stack<F: Future<Output = u8> + Send + 'static>(call: impl FnOnce() -> F + Send + 'static) {
    let small = std::thread::Builder::new().stack_size(STACK);
    let thread = small.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let call = runtime.spawn(call());
        assert_eq!(runtime.block_on(call).unwrap(), 7);
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn a_large_result_of_a_leader() {
    on_a_small_stack(|| async {
        let group: Group<u8, Large> = Group::new();
        let outcome = group.run(1, large).await.unwrap();
        outcome.value.0[0]
    });
}

#[test]
fn a_large_result_of_a_spawned_flight() {
    on_a_small_stack(|| async {
        let group: Group<u8, Large> = Group::new();
        let outcome = group.run_by_ref(&1, large).drive(Drive::Spawned).await.unwrap();
        outcome.value.0[0]
    });
}

#[test]
fn a_large_result_of_a_follower() {
    on_a_small_stack(|| async {
        let group: Group<u8, Large> = Group::new();
        let calls: Vec<_> = (0..3).map(|_| Box::pin(group.run(1, large))).collect();
        let outcomes = futures::future::join_all(calls).await;
        let followers = outcomes
            .into_iter()
            .map(Result::unwrap)
            .filter(|outcome| outcome.role == Role::Follower);
        assert!(group.join(&1).await.is_none());
        followers.map(|outcome| outcome.value.0[0]).max().unwrap()
    });
}

#[test]
fn a_large_result_of_work_that_can_fail() {
    on_a_small_stack(|| async {
        let group: Group<u8, Result<Large, Arc<u8>>> = Group::new();
        let outcome = group.try_run(1, || async { Ok::<_, u8>(large().await) }).await;
        outcome.map_or(0, |outcome| outcome.value.0[0])
    });
}
