//! Promise 2: a call that starts after any caller of a flight has returned never joins that flight.

use crate::common::{Gate, Task};
use oneflight::{Group, Role};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_never_gets_a_result_that_somebody_has_returned_with() {
    const TASKS: usize = 4;
    const CALLS: usize = 20_000;
    let group: Group<u8, u64> = Group::new();
    let executions = Arc::new(AtomicU64::new(0));
    // The newest execution that any call has returned with.
    let returned = Arc::new(AtomicU64::new(0));
    let running = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (group, executions, returned, running) =
                (group.clone(), executions.clone(), returned.clone(), running.clone());
            tokio::spawn(async move {
                for call in 0..CALLS {
                    let before = returned.load(SeqCst);
                    let (executions, running) = (Arc::clone(&executions), Arc::clone(&running));
                    let outcome = group.run(1, move || async move {
                        assert_eq!(running.fetch_add(1, SeqCst), 0, "the key ran beside itself");
                        let number = executions.fetch_add(1, SeqCst) + 1;
                        if (call + task) % 3 == 0 {
                            tokio::task::yield_now().await;
                        }
                        running.fetch_sub(1, SeqCst);
                        number
                    });
                    let number = outcome.await.unwrap().value;
                    assert!(
                        number > before,
                        "a call got {number}, but somebody had returned with {before}"
                    );
                    returned.fetch_max(number, SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = group.stats();
    assert_eq!(stats.led, executions.load(SeqCst));
    assert_eq!(stats.led + stats.joined, (TASKS * CALLS) as u64);
    assert_eq!(group.in_flight(), 0);
}

#[test]
fn a_follower_who_has_not_fetched_his_result_keeps_nobody_from_a_fresh_one() {
    let group: Group<u8, u32> = Group::new();
    let gate = Gate::new();
    let mut leader = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            1
        }
    }));
    let mut late = Task::new(group.run(1, || async { 0 }));
    leader.pending();
    late.pending();
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 1);
    let fresh = Task::new(group.run(1, || async { 2 })).ready().unwrap();
    assert_eq!((fresh.value, fresh.role), (2, Role::Leader));
    assert_eq!(late.ready().unwrap().value, 1);
}

#[test]
fn a_forgotten_flight_never_removes_its_successor() {
    let group: Group<u8, u32> = Group::new();
    let (first, second) = (Gate::new(), Gate::new());
    let work = |value, gate: &Gate| {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            value
        }
    };
    let mut old = Task::new(group.run(1, work(1, &first)));
    old.pending();
    assert!(group.forget(&1));
    assert!(!group.forget(&1));
    let mut new = Task::new(group.run(1, work(2, &second)));
    new.pending();
    assert_eq!(group.in_flight(), 2, "a forgotten flight still flies");
    first.open(1);
    assert_eq!(old.ready().unwrap().value, 1);
    assert_eq!(group.in_flight(), 1);
    let mut follower = Task::new(group.run(1, work(3, &second)));
    follower.pending();
    second.open(1);
    assert_eq!(new.ready().unwrap().value, 2);
    let follower = follower.ready().unwrap();
    assert_eq!((follower.value, follower.role), (2, Role::Follower));
    assert_eq!(group.in_flight(), 0);
}
