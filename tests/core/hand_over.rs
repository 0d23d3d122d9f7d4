//! Promise 3: when the driver is dropped, the same future goes on with another caller. It is never begun again.

use crate::common;

use crate::common::{CountsDrop, Gate, Tally, Task, run_all, yield_once};
use oneflight::{Group, OnAbandon, Role};
use std::cell::Cell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

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
                // The wake-up goes to the driver, which is dropped before it is polled.
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
    // The work is woken now; the task that has been told goes.
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
        // A task that was told and is polled goes back to waiting.
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

/// How often each of them was woken.
fn wakes<F: Future>(tasks: &[Task<F>]) -> Vec<usize> {
    tasks.iter().map(Task::wakes).collect()
}

#[test]
fn work_that_is_woken_thrice_before_it_is_polled_wakes_two_callers_once() {
    let (group, shown) = (Group::<u8, u8>::new(), Arc::new(Mutex::new(None::<Waker>)));
    let mut callers: Vec<_> = (0..5)
        .map(|_| {
            let shown = Arc::clone(&shown);
            Task::new(group.run(1, || {
                poll_fn(move |cx| {
                    *shown.lock().unwrap() = Some(cx.waker().clone());
                    Poll::Pending
                })
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    let waker = shown.lock().unwrap().take().expect("the work was polled");
    for _ in 0..3 {
        waker.wake_by_ref();
        assert_eq!(wakes(&callers), [1, 1, 0, 0, 0]);
    }
}

#[test]
fn work_that_wakes_itself_wakes_two_callers_when_its_poll_is_over() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut callers: Vec<_> = (0..5)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, || async move {
                gate.pass().await;
                yield_once().await;
                gate.pass().await;
                1
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    gate.open(1);
    assert_eq!(wakes(&callers), [1, 1, 0, 0, 0]);
    callers[0].pending();
    assert_eq!(wakes(&callers), [2, 1, 1, 0, 0]);
}

#[test]
fn nobody_is_woken_by_a_poll_that_comes_to_nothing_or_by_a_caller_who_leaves() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut callers: Vec<_> = (0..5)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, || async move {
                gate.pass().await;
                1
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    callers[0].pending();
    callers.remove(4);
    assert_eq!(wakes(&callers), [0; 4]);
    // The work is woken, and polled for nothing.
    gate.open(0);
    assert_eq!(wakes(&callers), [1, 1, 0, 0]);
    callers[0].pending();
    callers[1].pending();
    callers.remove(2);
    callers.remove(0);
    assert_eq!(wakes(&callers), [1, 0]);
}

#[test]
fn whoever_polls_woken_work_is_counted_and_told_first_from_then_on() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut callers: Vec<_> = (0..3)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, || async move {
                gate.pass().await;
                1
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    gate.open(0);
    assert_eq!(wakes(&callers), [1, 1, 0]);
    // The standby comes before the driver.
    callers[1].pending();
    assert_eq!(group.stats().taken_over, 1);
    callers[0].pending();
    gate.open(0);
    assert_eq!(wakes(&callers), [1, 2, 1]);
    let stats = group.stats();
    assert_eq!((stats.taken_over, stats.handed_over), (1, 0));
}

#[test]
fn work_that_wakes_itself_as_it_ends_has_ended_for_everybody() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut callers: Vec<_> = (0..3)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, || async move {
                gate.pass().await;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Ready(1)
                })
                .await
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    gate.open(1);
    for outcome in run_all(callers) {
        assert_eq!(outcome.unwrap().value, 1);
    }
    assert_eq!(group.in_flight(), 0);
}

std::thread_local! {
    /// What happens as the waker of [`acts_as_it_is_cloned`] is cloned.
    static ACT: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

/// A waker that does something of its own as it is cloned, once.
fn acts_as_it_is_cloned(act: impl FnOnce() + 'static) -> Waker {
    fn clone(data: *const ()) -> RawWaker {
        if let Some(act) = ACT.take() {
            act();
        }
        RawWaker::new(data, &TABLE)
    }
    fn nothing(_: *const ()) {}
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, nothing, nothing, nothing);
    ACT.set(Some(Box::new(act)));
    #[allow(unsafe_code)]
    // SAFETY: the functions use no data.
    unsafe {
        Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE))
    }
}

/// A caller has looked and found nothing to do. Before it is among those that wait, the flight lands, or the work is
/// woken and all that were told have left.
#[test]
fn what_happens_while_a_caller_is_about_to_wait_is_not_missed() {
    for lands in [true, false] {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let call = || {
            let (group, gate) = (group.clone(), gate.clone());
            let work = || async move {
                gate.pass().await;
                7
            };
            Box::pin(async move { group.run(1, work).await.unwrap().value })
        };
        let mut others = [Task::new(call()), Task::new(call())];
        others.iter_mut().for_each(Task::pending);
        let opened = gate.clone();
        let waker = acts_as_it_is_cloned(move || {
            opened.open(1);
            if lands {
                assert_eq!(others[0].ready(), 7);
            }
            drop(others);
        });
        let polled = call().as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Ready(7));
    }
}

/// Work that makes a timer at each of its steps goes on with a caller on a thread in no runtime, where the group has one.
#[test]
fn work_finds_the_runtime_of_its_group_around_it() {
    let (runtime, group) = crate::group_with_a_runtime();
    let work = || async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        7
    };
    // Begun in the runtime, and handed over to this thread.
    let mut begun = Task::new(group.run(1, work));
    let mut other = Box::pin(group.run(1, work));
    {
        let _entered = runtime.enter();
        begun.pending();
    }
    futures::executor::block_on(async {
        assert!(futures::poll!(&mut other).is_pending());
        begun.drop();
        assert_eq!(other.await.unwrap().value, 7);
        // Begun on this thread.
        assert_eq!(group.run(2, work).await.unwrap().value, 7);
    });
    assert_eq!(group.stats().panicked, 0);
}
