//! Promise 3: when the driver is dropped, the same future goes on with another caller. It is never begun again.

mod common;

use common::{CountsDrop, Gate, Tally, Task, run_all};
use oneflight::{Group, OnAbandon, Role};
use std::sync::{Arc, Mutex};

const AWAITS: usize = 5;

/// Work with five awaits, which notes each step.
async fn five_awaits(steps: Arc<Mutex<Vec<usize>>>, gate: Gate) -> &'static str {
    for step in 0..AWAITS {
        steps.lock().unwrap().push(step);
        gate.pass().await;
    }
    steps.lock().unwrap().push(AWAITS);
    "done"
}

#[test]
fn the_driver_is_dropped_at_each_await_point() {
    for drop_at in 1..=AWAITS {
        for (followers, lost_wake) in [(1, false), (1, true), (2, true), (7, false), (7, true)] {
            let group: Group<u8, &str> = Group::new();
            let steps = Arc::new(Mutex::new(Vec::new()));
            let (made, gate) = (Tally::default(), Gate::new());
            let call = || {
                let (steps, made, gate) = (Arc::clone(&steps), made.clone(), gate.clone());
                Task::new(group.run(1, move || {
                    made.add();
                    five_awaits(steps, gate)
                }))
            };
            let mut driver = call();
            driver.pending();
            let mut others: Vec<_> = (0..followers).map(|_| call()).collect();
            others.iter_mut().for_each(Task::pending);
            for _ in 1..drop_at {
                gate.open(1);
                driver.pending();
            }
            assert_eq!(*steps.lock().unwrap(), (0..drop_at).collect::<Vec<_>>());
            if lost_wake {
                // The wake-up goes to the driver, who is dropped before he is polled.
                gate.open(1);
            }
            driver.drop();
            if !lost_wake {
                gate.open(1);
            }
            gate.open(AWAITS - drop_at);
            let outcomes = run_all(others);
            assert!(outcomes.iter().all(|outcome| {
                outcome
                    .as_ref()
                    .is_ok_and(|outcome| outcome.value == "done" && outcome.role == Role::Follower)
            }));
            assert_eq!(
                *steps.lock().unwrap(),
                (0..=AWAITS).collect::<Vec<_>>(),
                "once, in order"
            );
            assert_eq!(made.get(), 1);
            assert_eq!(group.in_flight(), 0);
            let stats = group.stats();
            assert_eq!((stats.led, stats.joined, stats.abandoned), (1, followers, 0));
        }
    }
}

/// Every driver in turn is dropped right after it was woken, before it could poll.
#[test]
fn a_wake_up_is_not_lost_with_the_caller_who_got_it() {
    let group: Group<u8, &str> = Group::builder().on_abandon(OnAbandon::Cancel).build();
    let (steps, gate) = (Arc::new(Mutex::new(Vec::new())), Gate::new());
    let mut tasks: Vec<_> = (0..6)
        .map(|_| {
            let (steps, gate) = (Arc::clone(&steps), gate.clone());
            Task::new(group.run(1, move || five_awaits(steps, gate)))
        })
        .collect();
    tasks.iter_mut().for_each(Task::pending);
    gate.open(AWAITS);
    // The work is woken now; whoever has been told goes.
    while tasks.len() > 1 {
        let woken = tasks.iter().position(|task| task.wakes() > 0).expect("nobody was told");
        drop(tasks.swap_remove(woken));
    }
    assert!(tasks[0].wakes() > 0, "the last one was not told");
    assert_eq!(run_all(tasks)[0].as_ref().unwrap().value, "done");
    assert_eq!(*steps.lock().unwrap(), (0..=AWAITS).collect::<Vec<_>>());
    assert_eq!(group.stats().cancelled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_time_out_hand_over_across_threads() {
    use std::time::Duration;
    for _ in 0..20 {
        let group: Group<u8, usize> = Group::new();
        let ran = Tally::default();
        let call = |limit: Option<Duration>| {
            let (group, ran) = (group.clone(), ran.clone());
            tokio::spawn(async move {
                let work = move || async move {
                    for _ in 0..10 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    ran.add()
                };
                let call = group.run(1, work);
                match limit {
                    Some(limit) => tokio::time::timeout(limit, call).await.ok(),
                    None => Some(call.await),
                }
            })
        };
        let hurried: Vec<_> = (1..8).map(|millis| call(Some(Duration::from_millis(millis)))).collect();
        let patient: Vec<_> = (0..3).map(|_| call(None)).collect();
        for task in hurried {
            let _ = task.await.unwrap();
        }
        for task in patient {
            assert_eq!(task.await.unwrap().unwrap().unwrap().value, 1);
        }
        assert_eq!(ran.get(), 1);
        assert_eq!(group.in_flight(), 0);
    }
}

#[test]
fn followers_never_call_their_closure() {
    let group: Group<u8, u8> = Group::new();
    let dropped = Tally::default();
    let gate = Gate::new();
    let mut leader = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            1
        }
    }));
    leader.pending();
    let guard = CountsDrop(dropped.clone());
    let mut follower = Task::new(group.run(1, move || -> std::future::Ready<u8> {
        drop(guard);
        unreachable!("a follower called its closure")
    }));
    follower.pending();
    assert_eq!(dropped.get(), 1, "what the closure held is kept no longer than needed");
    gate.open(1);
    assert_eq!(run_all(vec![leader])[0].as_ref().unwrap().value, 1);
    assert_eq!(follower.ready().unwrap().value, 1);
}

#[test]
fn work_that_progresses_wakes_two_not_all() {
    const FOLLOWERS: usize = 100;
    const STEPS: usize = 50;
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut leader = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            for _ in 0..STEPS {
                gate.pass().await;
            }
            1
        }
    }));
    leader.pending();
    let mut followers: Vec<_> = (0..FOLLOWERS)
        .map(|_| Task::new(group.run(1, || async { 0 })))
        .collect();
    followers.iter_mut().for_each(Task::pending);
    let mut told = vec![0; FOLLOWERS];
    for step in 1..=STEPS {
        gate.open(1);
        if step < STEPS {
            leader.pending();
        } else {
            assert_eq!(leader.ready().unwrap().value, 1);
        }
        // Whoever was told and is polled goes back to waiting.
        for (follower, told) in followers.iter_mut().zip(&mut told) {
            if step < STEPS && follower.wakes() > *told {
                *told = follower.wakes();
                follower.pending();
            }
        }
    }
    let wakes: usize = followers.iter().map(Task::wakes).sum();
    assert!(
        (FOLLOWERS..=FOLLOWERS + STEPS).contains(&wakes),
        "{wakes} wake-ups for {STEPS} steps and {FOLLOWERS} results"
    );
    for mut follower in followers {
        assert_eq!(follower.ready().unwrap().value, 1);
    }
}

/// A follower joins while the work is being made, so that its first poll is shared already; the work yields in it.
#[test]
fn a_wake_up_during_the_poll_reaches_those_who_wait() {
    let group: Group<u8, u8> = Group::new();
    let follower = std::cell::RefCell::new(None);
    let leader = group.run(1, || {
        let mut joins = Task::new(group.run(1, || async { 0 }));
        std::thread::scope(|scope| scope.spawn(|| joins.pending()).join().unwrap());
        *follower.borrow_mut() = Some(joins);
        async {
            common::yield_once().await;
            1
        }
    });
    let mut leader = Task::new(leader);
    leader.pending();
    let mut follower = follower.take().unwrap();
    assert!(leader.wakes() > 0 && follower.wakes() > 0, "nobody was told");
    assert_eq!(follower.ready().unwrap().value, 1);
    assert_eq!(leader.ready().unwrap().value, 1);
}
