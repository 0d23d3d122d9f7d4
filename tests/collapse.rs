//! Promise 1: of all callers whose key is in flight, exactly one work future is created and run.

mod common;

use common::{Gate, Tally, Task};
use futures::future::join_all;
use oneflight::{Group, Role};
use std::sync::Arc;
use tokio::sync::{Barrier, oneshot};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_callers_of_one_key_run_one_execution() {
    const CALLERS: usize = 10_000;
    let group: Group<String, usize> = Group::new();
    let (made, ran) = (Tally::default(), Tally::default());
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(std::sync::Mutex::new(Some(finished)));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (group, made, ran, finished) = (group.clone(), made.clone(), ran.clone(), Arc::clone(&finished));
            tokio::spawn(async move {
                let work = || {
                    made.add();
                    let finished = finished.lock().unwrap().take().expect("a second work was made");
                    async move {
                        ran.add();
                        finished.await.unwrap();
                        42
                    }
                };
                group.run("order".to_owned(), work).await.unwrap()
            })
        })
        .collect();
    while group.stats().joined < CALLERS as u64 - 1 {
        tokio::task::yield_now().await;
    }
    finish.send(()).unwrap();
    let outcomes: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert!(outcomes.iter().all(|outcome| outcome.value == 42));
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.role == Role::Leader).count(),
        1
    );
    assert_eq!((made.get(), ran.get()), (1, 1));
    assert_eq!(group.in_flight(), 0);
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined), (1, CALLERS as u64 - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distinct_keys_do_not_share() {
    let group: Group<u64, u64> = Group::new();
    let barrier = Arc::new(Barrier::new(100));
    let calls = (0..100).map(|key| {
        let barrier = Arc::clone(&barrier);
        let work = move || async move {
            barrier.wait().await;
            key
        };
        group.run(key, work)
    });
    for (key, outcome) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().value, key as u64);
    }
    assert_eq!(group.stats().led, 100);
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let group: Group<&str, u32> = Group::new();
    let made = Tally::default();
    let call = group.run("key", || {
        made.add();
        async { 1 }
    });
    assert_eq!((made.get(), group.in_flight()), (0, 0));
    drop(call);
    assert_eq!((made.get(), group.stats().led), (0, 0));
}

#[test]
fn the_one_who_is_polled_first_leads_not_the_one_who_was_made_first() {
    let group: Group<&str, u32> = Group::new();
    let gate = Gate::new();
    let work = |value| {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            value
        }
    };
    let mut first = Task::new(group.run("key", work(1)));
    let mut second = Task::new(group.run("key", work(2)));
    second.pending();
    first.pending();
    gate.open(1);
    let (second, first) = (second.ready().unwrap(), first.ready().unwrap());
    assert_eq!((second.value, second.role), (2, Role::Leader));
    assert_eq!((first.value, first.role), (2, Role::Follower));
}

#[test]
fn a_borrowed_key_joins_and_is_owned_only_to_lead() {
    let group: Group<String, u32> = Group::new();
    let gate = Gate::new();
    let work = || {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            1
        }
    };
    let mut leader = Task::new(group.run_by_ref("key", work()));
    let mut follower = Task::new(group.run_by_ref("key", work()));
    let mut owner = Task::new(group.run("key".to_owned(), work()));
    leader.pending();
    follower.pending();
    owner.pending();
    gate.open(1);
    for task in [leader.ready(), follower.ready()] {
        assert_eq!(task.unwrap().value, 1);
    }
    assert_eq!(owner.ready().unwrap().role, Role::Follower);
    assert_eq!(group.stats().led, 1);
}

#[test]
fn join_shares_what_is_in_flight_and_begins_nothing() {
    let group: Group<String, u32> = Group::new();
    assert!(Task::new(group.join("key")).ready().is_none());
    let gate = Gate::new();
    let mut leader = Task::new(group.run("key".to_owned(), {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            7
        }
    }));
    leader.pending();
    let mut joined = Task::new(group.join("key"));
    joined.pending();
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 7);
    let outcome = joined.ready().unwrap().unwrap();
    assert_eq!((outcome.value, outcome.role), (7, Role::Follower));
    assert!(Task::new(group.join("key")).ready().is_none());
    assert_eq!(group.stats().led, 1);
}
