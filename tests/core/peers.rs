//! What others learnt the hard way: what libraries that share executions test, or what their users ran into, and no
//! other test of ours shows. `docs/peers_tests.md` says for each where it comes from.

use crate::common;

use crate::common::{Counter, CountsDrop, Gate, Tally, Task, yield_once};
use futures::executor::block_on;
use futures::future::{join, join_all};
use futures::stream::{self, FuturesUnordered, StreamExt};
use oneflight::{Drive, Fingerprint, FlightError, Group, OnAbandon, Role, TryError};
use std::borrow::Borrow;
use std::cell::Cell;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

fn gated<T: Send + 'static>(gate: &Gate, value: T) -> impl FnOnce() -> Work<T> + use<T> {
    let gate = gate.clone();
    move || {
        Box::pin(async move {
            gate.pass().await;
            value
        })
    }
}

fn poll_as<F: Future + ?Sized>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

async fn soon<F: Future>(future: F) -> F::Output {
    let limit = tokio::time::timeout(Duration::from_secs(10), future).await;
    limit.expect("it waits for ever")
}

/// Runs it on a thread of its own, and fails if it does not end.
fn ends(act: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        act();
        let _ = done.send(());
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody waits for ever"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
    }
}

// Wakers

#[test]
fn a_caller_may_move_to_another_task_while_he_waits() {
    for follows in [false, true] {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let mut leader = Task::new(group.run(1, gated(&gate, 7)));
        if follows {
            leader.pending();
        }
        let mut mover = Box::pin(group.run(1, gated(&gate, 7)));
        let ((old, first), (new, second)) = (Counter::new(), Counter::new());
        assert!(poll_as(&mut mover, &first).is_pending());
        assert!(poll_as(&mut mover, &second).is_pending());
        drop(first);
        assert_eq!(Arc::strong_count(&old), 1, "the waker of the task he left is kept");
        gate.open(1);
        assert_eq!(old.get(), 0, "the task he left is woken");
        assert!(new.get() > 0, "the task he is in now is not woken");
        let Poll::Ready(outcome) = poll_as(&mut mover, &second) else {
            panic!("nothing to wait for any more");
        };
        assert_eq!(outcome.unwrap().value, 7);
        if follows {
            assert_eq!(leader.ready().unwrap().value, 7);
        }
    }
}

/// The follower changes its waker at the very moment at which another thread lands the flight.
#[test]
fn a_follower_who_moves_as_the_flight_lands_is_still_told() {
    for _ in 0..2_000 {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let mut leader = Task::new(group.run(1, gated(&gate, 7)));
        leader.pending();
        let mut mover = Box::pin(group.run(1, gated(&gate, 0)));
        let ((_, first), (new, second)) = (Counter::new(), Counter::new());
        assert!(poll_as(&mut mover, &first).is_pending());
        let start = Barrier::new(2);
        let polled = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                gate.open(1);
                // It may have driven the work to its end meanwhile, or take it from us.
                let _ = leader.poll();
            });
            start.wait();
            poll_as(&mut mover, &second)
        });
        let polled = match polled {
            Poll::Pending => {
                assert!(new.get() > 0, "a lost wake-up");
                poll_as(&mut mover, &second)
            }
            ready => ready,
        };
        assert!(matches!(polled, Poll::Ready(Ok(outcome)) if outcome.value == 7));
    }
}

#[test]
fn a_caller_keeps_one_waker_and_takes_it_with_him() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut given: Vec<Arc<Counter>> = Vec::new();
    let kept = |given: &[Arc<Counter>]| given.iter().filter(|counter| Arc::strong_count(counter) > 1).count();
    let mut poll_often = |call: &mut Work<u8>| {
        for _ in 0..100 {
            let (counter, waker) = Counter::new();
            assert!(poll_as(call, &waker).is_pending());
            given.push(counter);
        }
        kept(&given)
    };
    let call = || -> Work<u8> {
        let (group, work) = (group.clone(), gated(&gate, 7));
        Box::pin(async move { group.run(1, work).await.unwrap().value })
    };
    let (mut leader, mut follower) = (call(), call());
    assert_eq!(poll_often(&mut leader), 1);
    assert_eq!(poll_often(&mut follower), 2);
    assert_eq!(poll_often(&mut leader), 2);
    drop(follower);
    assert_eq!(kept(&given), 1, "a caller who has left keeps his task alive");
    gate.open(1);
    assert_eq!(block_on(leader), 7);
    assert_eq!(kept(&given), 0);
}

/// A waker may be the last thing that a task is held by, so anything may happen as it is dropped.
#[test]
fn a_waker_may_use_the_group_as_it_is_dropped() {
    struct Nosy(Group<u8, u8>, Tally);
    impl Wake for Nosy {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = Task::new(self.0.join(&1)).poll();
            let _ = Task::new(self.0.drain()).poll();
            let _ = (self.0.in_flight(), self.0.stats(), self.0.forget(&2));
            self.1.add();
        }
    }
    ends(|| {
        let (group, gate, dropped) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
        let nosy = || Waker::from(Arc::new(Nosy(group.clone(), dropped.clone())));
        let mut leader = Box::pin(group.run(1, gated(&gate, 7)));
        let mut follower = Box::pin(group.run(1, gated(&gate, 7)));
        let mut drain = Box::pin(group.drain());
        for _ in 0..3 {
            assert!(poll_as(&mut leader, &nosy()).is_pending());
        }
        for _ in 0..3 {
            assert!(poll_as(&mut follower, &nosy()).is_pending());
            assert!(poll_as(&mut leader, &nosy()).is_pending());
            assert!(poll_as(&mut drain, &nosy()).is_pending());
        }
        gate.open(1);
        assert!(matches!(poll_as(&mut leader, &nosy()), Poll::Ready(Ok(_))));
        assert!(matches!(poll_as(&mut follower, &nosy()), Poll::Ready(Ok(_))));
        assert!(poll_as(&mut drain, &nosy()).is_ready());
        drop((leader, follower, drain));
        assert_eq!((dropped.get(), group.in_flight()), (15, 0));
    });
}

/// An executor that polls its task right where that is woken, on the stack of the code that wakes it.
struct Eager {
    task: Mutex<Option<Work<u8>>>,
    again: AtomicBool,
    done: Mutex<Option<u8>>,
}

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        self.again.store(true, SeqCst);
        // Woken inside its own poll, it is polled once more after that.
        let Ok(mut task) = self.task.try_lock() else { return };
        while self.again.swap(false, SeqCst) {
            let Some(future) = task.as_mut() else { return };
            if let Poll::Ready(value) = poll_as(future, &waker) {
                *self.done.lock().unwrap() = Some(value);
                *task = None;
            }
        }
    }
}

#[test]
fn an_executor_that_polls_where_it_is_woken_gets_into_no_lock() {
    ends(|| {
        let (group, gate, made) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (group, gate, made) = (group.clone(), gate.clone(), made.clone());
                let call = async move {
                    let work = move || {
                        made.add();
                        async move {
                            for _ in 0..3 {
                                gate.pass().await;
                                yield_once().await;
                            }
                            7
                        }
                    };
                    group.run(1, work).await.unwrap().value
                };
                Arc::new(Eager {
                    task: Mutex::new(Some(Box::pin(call))),
                    again: AtomicBool::new(false),
                    done: Mutex::new(None),
                })
            })
            .collect();
        tasks.iter().for_each(|task| Arc::clone(task).wake());
        for _ in 0..3 {
            gate.open(1);
        }
        for task in &tasks {
            assert_eq!(*task.done.lock().unwrap(), Some(7), "it was not woken to its end");
        }
        assert_eq!((made.get(), group.in_flight()), (1, 0));
    });
}

#[test]
fn a_waker_that_outlives_its_flight_wakes_nobody_and_keeps_no_result() {
    let group: Group<u8, Arc<()>> = Group::new();
    let (kept, open) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let work = || {
        let (kept, open) = (Arc::clone(&kept), Arc::clone(&open));
        move || {
            poll_fn(move |cx| {
                *kept.lock().unwrap() = Some(cx.waker().clone());
                match open.load(SeqCst) {
                    true => Poll::Ready(Arc::new(())),
                    false => Poll::Pending,
                }
            })
        }
    };
    let (mut leader, mut follower) = (Task::new(group.run(1, work())), Task::new(group.run(1, work())));
    leader.pending();
    follower.pending();
    open.store(true, SeqCst);
    let woken: Waker = kept.lock().unwrap().take().expect("the work keeps its waker");
    woken.wake();
    let result = leader.ready().unwrap().value;
    drop(follower.ready());
    assert_eq!(Arc::strong_count(&result), 1, "the flight keeps the result");
    let stale = kept.lock().unwrap().take().expect("the work keeps its waker");

    // The key is in flight again: that is no affair of the old waker.
    let gate = Gate::new();
    let mut successors: Vec<_> = (0..2)
        .map(|_| Task::new(group.run(1, gated(&gate, Arc::clone(&result)))))
        .collect();
    successors.iter_mut().for_each(Task::pending);
    let wakes = |tasks: &[Task<_>]| tasks.iter().map(Task::wakes).sum::<usize>();
    let before = wakes(&successors);
    stale.wake_by_ref();
    assert_eq!(wakes(&successors), before);
    gate.open(1);
    assert!(wakes(&successors) > before);
    successors.iter_mut().for_each(|task| drop(task.ready().unwrap()));
    stale.wake();
}

#[test]
fn a_wake_up_from_another_thread_in_the_middle_of_anything_is_not_lost() {
    ends(|| {
        // A thread that wakes whatever it is given, at once.
        let (give, given) = mpsc::channel::<(Arc<AtomicBool>, Waker)>();
        let waking = std::thread::spawn(move || {
            for (ready, waker) in given {
                ready.store(true, SeqCst);
                waker.wake();
            }
        });
        for round in 0..300 {
            let (group, made) = (Group::<u8, usize>::new(), Tally::default());
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (group, made, give) = (&group, &made, &give);
                    scope.spawn(move || {
                        let call = || {
                            let (made, give) = (made.clone(), give.clone());
                            group.run(1, move || async move {
                                for _ in 0..10 {
                                    let ready = Arc::new(AtomicBool::new(false));
                                    poll_fn(|cx| {
                                        if ready.load(SeqCst) {
                                            return Poll::Ready(());
                                        }
                                        give.send((Arc::clone(&ready), cx.waker().clone())).unwrap();
                                        Poll::Pending
                                    })
                                    .await;
                                }
                                made.add()
                            })
                        };
                        // Some look in, and go before they stay.
                        for _ in 0..(round + thread) % 3 {
                            let mut impatient = Task::new(call().on_abandon(OnAbandon::Cancel));
                            let _ = impatient.poll();
                        }
                        block_on(call()).unwrap();
                    });
                }
            });
            assert_eq!(group.in_flight(), 0);
        }
        drop(give);
        waking.join().unwrap();
    });
}

#[test]
fn followers_of_work_that_panics_are_woken_to_hear_of_it() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut calls: Vec<_> = (0..4)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, move || async move {
                gate.pass().await;
                panic!("as planned")
            }))
        })
        .collect();
    calls.iter_mut().for_each(Task::pending);
    let before: Vec<_> = calls.iter().map(Task::wakes).collect();
    gate.open(1);
    assert!(matches!(calls[0].ready(), Err(FlightError::Panicked(_))));
    for (call, before) in calls.iter_mut().zip(before).skip(1) {
        assert!(call.wakes() > before, "he waits for ever");
        assert!(matches!(call.ready(), Err(FlightError::Panicked(_))));
    }
}

// Executors

#[test]
fn threads_without_a_runtime_share_one_flight() {
    for threads in [1, 2, 100] {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| block_on(group.run(1, gated(&gate, 7)))))
                .collect();
            while group.stats().led + group.stats().joined < threads {
                std::thread::yield_now();
            }
            gate.open(1);
            for call in calls {
                assert_eq!(call.join().unwrap().unwrap().value, 7);
            }
        });
        assert_eq!((group.stats().led, group.in_flight()), (1, 0));
    }
}

#[test]
fn work_that_wakes_itself_lets_the_rest_of_its_task_run() {
    for followers in [0, 2] {
        let (group, proceed, polls) = (
            Group::<u8, u8>::new(),
            Arc::new(AtomicBool::new(false)),
            Tally::default(),
        );
        let calls = join_all((0..=followers).map(|_| {
            let (proceed, polls) = (Arc::clone(&proceed), polls.clone());
            group.run(1, move || {
                poll_fn(move |cx| {
                    assert!(polls.add() < 1_000, "polled over and over");
                    if proceed.load(SeqCst) {
                        return Poll::Ready(7);
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
            })
        }));
        let (outcomes, ()) = block_on(join(calls, async { proceed.store(true, SeqCst) }));
        assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().value == 7));
    }
}

#[test]
fn callers_in_one_unordered_set_share_and_all_end() {
    const CALLERS: u64 = 50;
    let (group, gate, made) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
    let calls: FuturesUnordered<_> = (0..CALLERS)
        .map(|_| {
            let (gate, made) = (gate.clone(), made.clone());
            group.run(1, move || {
                made.add();
                async move {
                    gate.pass().await;
                    yield_once().await;
                    gate.pass().await;
                    7
                }
            })
        })
        .collect();
    let opens = poll_fn(|cx| {
        if group.stats().joined < CALLERS - 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        gate.open(2);
        Poll::Ready(())
    });
    let (outcomes, ()) = block_on(join(calls.collect::<Vec<_>>(), opens));
    assert_eq!(outcomes.len() as u64, CALLERS);
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().value == 7));
    assert_eq!((made.get(), group.in_flight()), (1, 0));
}

/// What a stream has buffered is not polled while its consumer is busy with something else.
#[tokio::test]
async fn callers_that_a_stream_has_buffered_do_not_hold_its_consumer_up() {
    let group: Group<u8, u8> = Group::new();
    let call = |key| {
        let group = group.clone();
        async move {
            let work = move || async move {
                tokio::time::sleep(Duration::from_millis(u64::from(key))).await;
                tokio::time::sleep(Duration::from_millis(u64::from(key))).await;
                key
            };
            group.run(key, work).await.unwrap()
        }
    };
    let mut buffered = Box::pin(stream::iter([1, 10, 20]).map(call).buffer_unordered(3));
    assert_eq!(soon(buffered.next()).await.unwrap().value, 1);
    // 10 and 20 are in flight, and their drivers in the buffer.
    let (ten, twenty) = soon(async { (call(10).await, call(20).await) }).await;
    assert_eq!((ten.role, twenty.role), (Role::Follower, Role::Follower));
    assert_eq!(soon(buffered.count()).await, 2);
    assert_eq!(group.stats().led, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_aborted_hands_its_work_over() {
    let (group, gate, made) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
    let call = || {
        let (group, made, work) = (group.clone(), made.clone(), gated(&gate, 7));
        tokio::spawn(async move {
            let work = move || {
                made.add();
                work()
            };
            group.run(1, work).await
        })
    };
    let leader = call();
    while group.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    let follower = call();
    while group.stats().joined == 0 {
        tokio::task::yield_now().await;
    }
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.open(1);
    assert_eq!(soon(follower).await.unwrap().unwrap().value, 7);
    assert_eq!((made.get(), group.in_flight()), (1, 0));
}

// Which calls begin, join, and leave

#[test]
fn a_call_that_is_made_early_and_polled_late_gets_a_fresh_result() {
    let group: Group<u8, u8> = Group::new();
    let mut late = Task::new(group.run(1, || async { 2 }));
    assert_eq!(Task::new(group.run(1, || async { 1 })).ready().unwrap().value, 1);
    let outcome = late.ready().unwrap();
    assert_eq!((outcome.value, outcome.role), (2, Role::Leader));
}

#[tokio::test]
async fn calls_that_are_made_together_and_awaited_in_turn_are_not_at_the_same_time() {
    let (group, ran) = (Group::<u8, usize>::new(), Tally::default());
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let ran = ran.clone();
            group.run(1, move || async move {
                tokio::task::yield_now().await;
                ran.add()
            })
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().value, number + 1);
    }
    assert_eq!(group.stats().led, 10);
}

#[test]
fn a_caller_who_leaves_does_not_take_the_key_with_him() {
    let (group, gate, made) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
    let call = || {
        let (made, work) = (made.clone(), gated(&gate, 7));
        Task::new(group.run(1, move || {
            made.add();
            work()
        }))
    };
    let mut calls: Vec<_> = (0..3).map(|_| call()).collect();
    calls.iter_mut().for_each(Task::pending);
    // First a follower, then the caller that leads or drives.
    for leaves in [2, 0, 0, 1, 0] {
        drop(calls.remove(leaves));
        assert_eq!(group.in_flight(), 1);
        let mut next = call();
        next.pending();
        calls.push(next);
    }
    gate.open(1);
    for outcome in common::run_all(calls) {
        let outcome = outcome.unwrap();
        assert_eq!((outcome.value, outcome.role), (7, Role::Follower));
    }
    assert_eq!((made.get(), group.stats().led, group.in_flight()), (1, 1, 0));
}

#[tokio::test]
async fn a_forgotten_flight_is_handed_over_and_finished_like_any_other() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut old: Vec<_> = (0..3).map(|_| Task::new(group.run(1, gated(&gate, 1)))).collect();
    old.iter_mut().for_each(Task::pending);
    assert!(group.forget(&1));
    drop(old.remove(0));
    gate.open(1);
    for outcome in common::run_all(old) {
        assert_eq!(outcome.unwrap().value, 1, "one of them got another result");
    }
    let mut abandoned = Task::new(group.run(1, gated(&gate, 2)));
    abandoned.pending();
    assert!(group.forget(&1));
    abandoned.drop();
    let mut fresh = Task::new(group.run(1, || std::future::ready(3)));
    assert_eq!(fresh.ready().unwrap().value, 3);
    assert_eq!(group.in_flight(), 1);
    gate.open(1);
    soon(group.drain()).await;
    let stats = group.stats();
    assert_eq!((stats.abandoned, stats.finished_unattended, stats.cancelled), (1, 1, 0));
}

/// The only caller leaves, by whose policy the work is dropped, while that is being polled elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_comes_as_the_last_caller_cancels_runs_its_own_work() {
    let group: Group<u8, u8> = Group::new();
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let mut only = Task::new({
        let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
        let call = group.run(1, move || async move {
            entered.wait();
            leave.wait();
            std::future::pending().await
        });
        call.drive(Drive::Spawned).on_abandon(OnAbandon::Cancel)
    });
    only.pending();
    entered.wait();
    only.drop();
    let mut next = Box::pin(group.run(1, || async { 2 }));
    let mut joins = Box::pin(group.join(&1));
    assert!(futures::poll!(&mut next).is_pending(), "the key ran beside itself");
    assert!(futures::poll!(&mut joins).is_pending());
    leave.wait();
    assert!(soon(joins).await.is_none(), "he is told of what others did");
    let outcome = soon(next).await.unwrap();
    assert_eq!((outcome.value, outcome.role), (2, Role::Leader));
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.cancelled), (2, 0, 1));
    assert_eq!(group.in_flight(), 0);
}

#[tokio::test]
async fn work_may_drop_callers_of_its_own_flight() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let callers: Arc<Mutex<Vec<Work<u8>>>> = Arc::default();
        let call = || -> Work<u8> {
            let (group, gate, callers) = (group.clone(), gate.clone(), Arc::clone(&callers));
            Box::pin(async move {
                let work = move || async move {
                    gate.pass().await;
                    let callers = std::mem::take(&mut *callers.lock().unwrap());
                    drop(callers);
                    yield_once().await;
                    7
                };
                group.run(1, work).drive(drive).await.unwrap().value
            })
        };
        let (mut leader, mut others) = (call(), [call(), call()]);
        for call in std::iter::once(&mut leader).chain(&mut others) {
            assert!(futures::poll!(call).is_pending());
        }
        callers.lock().unwrap().extend(others);
        gate.open(1);
        if drive == Drive::InPlace {
            assert_eq!(soon(leader).await, 7);
        } else {
            // Here no caller is left with that.
            callers.lock().unwrap().push(leader);
            soon(group.drain()).await;
            assert_eq!(group.stats().finished_unattended, 1);
        }
        assert!(callers.lock().unwrap().is_empty());
        assert_eq!((group.in_flight(), group.stats().led), (0, 1));
    }
}

// How it ends

#[test]
fn however_a_flight_ends_its_followers_do_not_run_their_own_work() {
    for end in ["value", "error", "panic", "abort"] {
        let (group, gate, made) = (Group::<u8, Result<u8, Arc<&str>>>::new(), Gate::new(), Tally::default());
        let mut calls: Vec<_> = (0..4)
            .map(|_| {
                let (gate, made) = (gate.clone(), made.clone());
                Task::new(group.try_run(1, move || {
                    made.add();
                    async move {
                        gate.pass().await;
                        match end {
                            "value" => Ok(7),
                            "error" => Err("declined"),
                            _ => panic!("as planned"),
                        }
                    }
                }))
            })
            .collect();
        calls.iter_mut().for_each(Task::pending);
        if end == "abort" {
            assert!(group.abort(&1));
        } else {
            gate.open(1);
        }
        for mut call in calls {
            let outcome = call.ready();
            let expected = match end {
                "value" => matches!(&outcome, Ok(outcome) if outcome.value == 7),
                "error" => matches!(&outcome, Err(TryError::Work(error)) if **error == "declined"),
                "panic" => matches!(&outcome, Err(TryError::Flight(FlightError::Panicked(_)))),
                _ => matches!(&outcome, Err(TryError::Flight(FlightError::Aborted))),
            };
            assert!(expected, "{end}: {outcome:?}");
        }
        assert_eq!((made.get(), group.in_flight()), (1, 0), "{end}");
    }
}

#[tokio::test]
async fn a_panic_under_one_key_leaves_the_others_alone() {
    let group: Group<u8, u8> = Group::new();
    let outcomes = join_all((0..6).map(|call| {
        group.run(call % 3, move || async move {
            tokio::task::yield_now().await;
            assert_ne!(call % 3, 1, "as planned");
            call % 3
        })
    }));
    for (call, outcome) in soon(outcomes).await.into_iter().enumerate() {
        match (call % 3, outcome) {
            (1, outcome) => assert!(matches!(outcome, Err(FlightError::Panicked(_)))),
            (key, outcome) => assert_eq!(usize::from(outcome.unwrap().value), key),
        }
    }
    assert_eq!(
        (group.stats().led, group.stats().panicked, group.in_flight()),
        (3, 1, 0)
    );
}

#[test]
fn a_panic_whose_payload_panics_as_it_is_dropped() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("and once more");
        }
    }
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut calls: Vec<_> = (0..2)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, move || async move {
                gate.pass().await;
                panic_any(Payload)
            }))
        })
        .collect();
    calls.iter_mut().for_each(Task::pending);
    gate.open(1);
    for mut call in calls {
        assert!(matches!(call.ready(), Err(FlightError::Panicked(_))));
    }
    assert_eq!((group.in_flight(), group.stats().panicked), (0, 1));
}

#[test]
fn the_error_of_a_panic_can_be_shown_compared_and_boxed() {
    let group: Group<u8, u8> = Group::new();
    let panicked = |text: &'static str| {
        let work = move || async move { panic!("{text}") };
        Task::new(group.run(1, work)).ready().unwrap_err()
    };
    let error = panicked("out of paper");
    assert!(error.to_string().contains("out of paper"), "{error}");
    assert!(format!("{error:?}").contains("Panicked"), "{error:?}");
    assert_eq!(error, error.clone());
    assert_ne!(error, panicked("out of ink"));
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    assert!(boxed.source().is_none());
}

/// A thread that unwinds has not panicked in our work.
#[test]
fn a_call_made_while_its_thread_unwinds_is_a_call_like_any_other() {
    struct Farewell(mpsc::Sender<(Result<u8, FlightError>, bool)>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
            let mut calls: Vec<_> = (0..2).map(|_| Task::new(group.run(1, gated(&gate, 7)))).collect();
            calls.iter_mut().for_each(Task::pending);
            gate.open(1);
            for mut call in calls {
                let told = call.ready().map(|outcome| outcome.value);
                self.0.send((told, std::thread::panicking())).unwrap();
            }
        }
    }
    let (tell, told) = mpsc::channel();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _farewell = Farewell(tell);
        panic!("as planned");
    }));
    assert!(unwound.is_err());
    assert_eq!(told.iter().collect::<Vec<_>>(), [(Ok(7), true), (Ok(7), true)]);
}

#[test]
fn a_call_that_is_polled_again_after_its_result_panics_and_harms_nobody() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let again = |call: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(call)).is_err();
    let (mut first, mut second) = (
        Task::new(group.run(1, gated(&gate, 7))),
        Task::new(group.run(1, gated(&gate, 7))),
    );
    first.pending();
    second.pending();
    gate.open(1);
    first.ready().unwrap();
    let mut nobody = Task::new(group.join(&2));
    assert!(nobody.ready().is_none());
    let mut others: Vec<_> = [1, 2].map(|key| Task::new(group.run(key, gated(&gate, 8)))).into();
    others.iter_mut().for_each(Task::pending);
    assert!(again(&mut || drop(first.poll())));
    assert!(again(&mut || drop(nobody.poll())));
    assert_eq!(second.ready().unwrap().value, 7);
    assert!(again(&mut || drop(second.poll())));
    gate.open(2);
    for outcome in common::run_all(others) {
        assert_eq!(outcome.unwrap().value, 8);
    }
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, group.in_flight()), (3, 1, 0));
}

// Keys, and what is left

/// A key that can't be cloned and counts its drop.
struct Key {
    number: u32,
    _drops: CountsDrop,
}

impl Borrow<u32> for Key {
    fn borrow(&self) -> &u32 {
        &self.number
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Key {}

#[test]
fn whatever_becomes_of_a_call_nothing_is_left_of_it() {
    const FATES: u32 = 9;
    type Value = Arc<CountsDrop>;
    let group: Group<Key, Value> = Group::builder().on_abandon(OnAbandon::Cancel).build();
    let (keys, works, values) = (Tally::default(), Tally::default(), Tally::default());
    let key = |number| Key {
        number,
        _drops: CountsDrop(keys.clone()),
    };
    let (mut made, mut begun) = (0, 0);
    for number in 0..100 * FATES {
        let gate = Gate::new();
        let fate = number % FATES;
        let mut call = || {
            made += 1;
            let (gate, work, value) = (gate.clone(), CountsDrop(works.clone()), CountsDrop(values.clone()));
            let run = group.run(key(number), move || async move {
                let _work = work;
                gate.pass().await;
                assert_ne!(fate, 3, "as planned");
                Arc::new(value)
            });
            Task::new(run.fingerprint(Fingerprint::from_digest([1; 32])))
        };
        let (mut leader, mut follower) = (call(), call());
        if fate == 0 {
            // Neither is ever polled.
            continue;
        }
        leader.pending();
        follower.pending();
        begun += 1;
        match fate {
            // It finishes; one of them does not fetch the result.
            1 => {
                gate.open(1);
                drop(leader.ready().unwrap());
            }
            // They leave.
            2 => leader.drop(),
            // It panics.
            3 => {
                gate.open(1);
                assert!(leader.ready().is_err());
            }
            // It is aborted.
            4 => assert!(group.abort(&number)),
            // It is forgotten, and ends.
            5 => {
                assert!(group.forget(&number));
                gate.open(1);
                drop(leader.ready().unwrap());
            }
            // It is forgotten, and they leave.
            6 => assert!(group.forget(&number)),
            // A third one is refused.
            7 => {
                made += 1;
                let other = group.run(key(number), || -> std::future::Ready<Value> {
                    unreachable!("it is in flight")
                });
                let refused = Task::new(other.fingerprint(Fingerprint::from_digest([2; 32]))).ready();
                assert!(matches!(refused, Err(FlightError::Conflict)));
            }
            // It is handed over, and finishes.
            _ => {
                leader.drop();
                gate.open(1);
                drop(follower.ready().unwrap());
            }
        }
        // With the last waker, which the gate may have, goes what a flight still had.
        drop((leader, follower, gate));
        assert_eq!(group.in_flight(), 0, "an entry is left of {fate}");
        assert_eq!(keys.get(), made, "a key is left of {fate}");
    }
    assert_eq!(group.stats().led, begun);
    // Each call brought a work and a value along, the third ones of 7 neither.
    let brought = made - 100;
    assert_eq!((keys.get(), works.get(), values.get()), (made, brought, brought));
}

/// A key that looks at the group as it is dropped.
struct Curious(u8, Group<Curious, u8>);

impl Curious {
    fn look(&self) {
        let _ = Task::new(self.1.join(&1)).poll();
        let _ = (self.1.in_flight(), self.1.stats(), self.1.forget(&9), self.1.abort(&9));
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.look();
    }
}

impl Borrow<u8> for Curious {
    fn borrow(&self) -> &u8 {
        &self.0
    }
}

impl Hash for Curious {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Curious {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Curious {}

#[test]
fn what_a_call_brings_may_use_the_group_as_it_is_dropped() {
    ends(|| {
        let builder = Group::<Curious, u8>::builder().on_abandon(OnAbandon::Cancel).shards(1);
        let (group, gates) = (
            builder.max_callers(3).max_flights(2).build(),
            [(); 4].map(|()| Gate::new()),
        );
        let call = |key: u8| {
            let (gate, held) = (gates[usize::from(key)].clone(), Curious(0, group.clone()));
            group.run(Curious(key, group.clone()), move || async move {
                let _held = held;
                gate.pass().await;
                7
            })
        };
        let refused = |key| Task::new(call(key)).ready().unwrap_err();
        let (mut leader, mut follower) = (Task::new(call(1)), Task::new(call(1)));
        leader.pending();
        follower.pending();
        let other = call(1).fingerprint(Fingerprint::from_digest([1; 32]));
        assert_eq!(Task::new(other).ready().unwrap_err(), FlightError::Conflict);
        // It would have to lead: there is no runtime here.
        let spawned = Task::new(call(3).drive(Drive::Spawned)).ready();
        assert_eq!(spawned.unwrap_err(), FlightError::NoRuntime);
        let mut third = Task::new(call(1));
        third.pending();
        assert!(matches!(refused(1), FlightError::Overloaded(_)));
        third.drop();
        let mut second = Task::new(call(2));
        second.pending();
        assert!(matches!(refused(3), FlightError::Overloaded(_)));
        assert!(group.forget(&2));
        second.drop();
        group.close();
        assert_eq!(refused(3), FlightError::Closed);
        gates[1].open(1);
        assert_eq!(leader.ready().unwrap().value, 7);
        assert_eq!(follower.ready().unwrap().value, 7);
        assert_eq!(group.in_flight(), 0);
    });
}

/// A key of which all have the same hash.
#[derive(PartialEq, Eq)]
struct Alike(u8);

impl Hash for Alike {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn keys_whose_hashes_collide_are_different_keys() {
    ends(|| {
        let group: Group<Alike, u8> = Group::builder().build();
        // Work for one of them may wait for another.
        let inner = group.clone();
        let nested = group.run(Alike(1), move || async move {
            inner.run(Alike(2), || async { 2 }).await.unwrap().value + 1
        });
        assert_eq!(Task::new(nested).ready().unwrap().value, 3);

        // Side by side, each is found, forgotten and removed for itself.
        let gates: Vec<_> = (0..20).map(|_| Gate::new()).collect();
        let call = |key: u8| Task::new(group.run(Alike(key), gated(&gates[usize::from(key)], key)));
        let mut leaders: Vec<_> = (0..20).map(call).collect();
        let mut followers: Vec<_> = (0..20).map(call).collect();
        leaders.iter_mut().for_each(Task::pending);
        followers.iter_mut().for_each(Task::pending);
        assert_eq!(group.in_flight(), 20);
        assert!(group.forget(&Alike(3)));
        for key in (0..20).rev() {
            let at = usize::from(key);
            gates[at].open(1);
            assert_eq!(leaders[at].ready().unwrap().value, key);
            assert_eq!(followers[at].ready().unwrap().value, key);
            assert_eq!(group.in_flight(), at);
            assert!(Task::new(group.join(&Alike(key))).ready().is_none());
            if key > 4 {
                assert!(Task::new(group.join(&Alike(4))).poll().is_pending());
            }
        }
        assert_eq!((group.stats().led, group.in_flight()), (22, 0));
    });
}

#[test]
fn borrowed_forms_of_a_key_reach_its_flight() {
    let (group, gate) = (Group::<Vec<u8>, u8>::new(), Gate::new());
    let (owned, slice): (Vec<u8>, &[u8]) = (vec![1, 2], &[1, 2]);
    let mut leader = Task::new(group.run(owned.clone(), gated(&gate, 7)));
    leader.pending();
    let mut by_slice = Task::new(group.run_by_ref(slice, gated(&gate, 0)));
    by_slice.pending();
    let (mut joins_slice, mut joins_owned) = (Task::new(group.join(slice)), Task::new(group.join(&owned)));
    joins_slice.pending();
    joins_owned.pending();
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 7);
    assert_eq!(by_slice.ready().unwrap().value, 7);
    assert_eq!(joins_slice.ready().unwrap().unwrap().value, 7);
    assert_eq!(joins_owned.ready().unwrap().unwrap().value, 7);
    let mut aborted = Task::new(group.run_by_ref(slice, gated(&gate, 0)));
    aborted.pending();
    assert!(group.abort(slice));
    assert_eq!(aborted.ready().unwrap_err(), FlightError::Aborted);
    let mut forgotten = Task::new(group.run(owned.clone(), gated(&gate, 0)));
    forgotten.pending();
    assert!(group.forget(slice));
    assert!(!group.forget(&owned));
}

// Types

#[test]
fn futures_can_be_sent_and_groups_shared_where_keys_and_results_can() {
    fn can_be_sent<T: Send>(_: &T) {}
    let group: Group<String, Result<u8, Arc<String>>> = Group::default();
    can_be_sent(&group.run(String::new(), || async { Ok(1) }));
    can_be_sent(&group.run_by_ref("", || async { Ok(1) }));
    can_be_sent(&group.try_run(String::new(), || async { Ok(1) }));
    can_be_sent(&group.try_run_by_ref("", || async { Err(String::new()) }));
    can_be_sent(&group.join(""));
    can_be_sent(&group.drain());

    // Of two constants of one name the type's own is taken, where its bound holds.
    struct Is<T: ?Sized>(PhantomData<T>);
    trait NotSync {
        const SYNC: bool = false;
    }
    trait NotSend {
        const SEND: bool = false;
    }
    impl<T: ?Sized> NotSync for Is<T> {}
    impl<T: ?Sized> NotSend for Is<T> {}
    impl<T: ?Sized + Sync> Is<T> {
        const SYNC: bool = true;
    }
    impl<T: ?Sized + Send> Is<T> {
        const SEND: bool = true;
    }
    let _ = Is::<()>(PhantomData);
    let group = [Is::<Group<String, u8>>::SEND, Is::<Group<String, u8>>::SYNC];
    let of_local_keys = [Is::<Group<Rc<u8>, u8>>::SEND, Is::<Group<Rc<u8>, u8>>::SYNC];
    let of_local_results = [Is::<Group<u8, Rc<u8>>>::SEND, Is::<Group<u8, Rc<u8>>>::SYNC];
    let of_cells = [Is::<Group<u8, Cell<u8>>>::SEND, Is::<Group<u8, Cell<u8>>>::SYNC];
    assert_eq!(group, [true; 2]);
    assert_eq!([of_local_keys, of_local_results, of_cells], [[false; 2]; 3]);
}

#[test]
fn the_future_of_a_call_is_small_however_large_its_work_is() {
    const LARGE: usize = 64 * 1024;
    let group: Group<u8, usize> = Group::new();
    let work = || async {
        let buffer = [1_u8; LARGE];
        yield_once().await;
        buffer.iter().map(|byte| usize::from(*byte)).sum()
    };
    assert!(size_of_val(&work()) >= LARGE);
    let call = group.run(1, work);
    assert!(size_of_val(&call) <= 256, "{} bytes", size_of_val(&call));
    assert_eq!(block_on(call).unwrap().value, LARGE);
}

#[test]
fn a_tasks_future_has_room_for_what_the_call_carries_or_for_the_caller() {
    let group: Group<String, u64> = Group::new();
    let (key, load) = ("a key".to_owned(), [1_u64; 8]);
    let work = move || async move { load.iter().sum() };
    assert_eq!(size_of_val(&work), 64);
    let task = async move { group.run(key, work).await };
    assert!(size_of_val(&task) <= 256, "{} bytes", size_of_val(&task));
    assert_eq!(block_on(task).unwrap().value, 8);
}
