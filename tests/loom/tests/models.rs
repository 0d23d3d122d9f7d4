//! The models, one for each protocol, over the code that ships. `bin/loom` runs them.
#![cfg(oneflight_loom)]

use loom::future::block_on;
use loom::thread;
use oneflight::model::{Runtime, join_tasks, nest_at_most, run_as_worker, spawn_onto, wake_first, wake_in_rounds_of};
use oneflight::{Drive, FlightError, Group, OnAbandon, Role};
use oneflight_loom::{Bound, Gate, Ledger, Value, YieldOnce, explore, poll_once, poll_once_and_drop, upto};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

fn group() -> Group<u8, Value> {
    Group::<u8, Value>::builder().shards(1).build()
}

fn group_that_cancels() -> Group<u8, Value> {
    Group::<u8, Value>::builder()
        .shards(1)
        .on_abandon(OnAbandon::Cancel)
        .build()
}

type Work = Pin<Box<dyn Future<Output = Value> + Send>>;

/// Work that is pending once and wakes itself.
fn yielding(ledger: &Arc<Ledger>) -> impl FnOnce() -> Work + Send + use<> {
    let ledger = Arc::clone(ledger);
    move || {
        let execution = ledger.begin();
        Box::pin(async move {
            YieldOnce::new().await;
            execution.value()
        })
    }
}

/// Work that waits until the gate is open.
fn gated(ledger: &Arc<Ledger>, gate: &Gate) -> impl FnOnce() -> Work + Send + use<> {
    let (ledger, gate) = (Arc::clone(ledger), gate.clone());
    move || {
        let execution = ledger.begin();
        Box::pin(async move {
            gate.opened().await;
            execution.value()
        })
    }
}

/// Two threads call, and one of them calls again. Its second call never gets a result that is older than that of
/// its first.
#[test]
fn join_complete() {
    let bound = Bound {
        newest: [Some(4), Some(6)],
        ..Bound::NONE
    };
    explore("join/complete", bound, || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let call = |group: &Group<u8, Value>, ledger: &Arc<Ledger>| {
            let ledger = Arc::clone(ledger);
            block_on(group.run(1, move || {
                let execution = ledger.begin();
                async move { execution.value() }
            }))
            .unwrap()
        };
        let other = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || drop(call(&group, &ledger)))
        };
        let first = call(&group, &ledger).value.number;
        let second = call(&group, &ledger);
        assert!(
            second.value.number > first,
            "a call that began after another returned joined its flight"
        );
        drop(second);
        other.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// Work that is pending once, so that followers find it parked, woken or being polled.
#[test]
fn join_yielding() {
    explore("join/complete, yielding work", upto(3, 5, 5), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let call =
            |group: &Group<u8, Value>, ledger: &Arc<Ledger>| block_on(group.run(1, yielding(ledger))).unwrap().role;
        let other = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || call(&group, &ledger))
        };
        let one = call(&group, &ledger);
        let two = other.join().unwrap();
        let led = [one, two].iter().filter(|role| **role == Role::Leader).count();
        assert_eq!(ledger.begun(), led);
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// Two callers wait for a gate that a third thread opens. No wake-up is lost, whichever caller drives.
#[test]
fn hand_over_wake() {
    explore("two callers/wake of the work", upto(2, 2, 3), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let call = |group: &Group<u8, Value>, ledger: &Arc<Ledger>, gate: &Gate| {
            block_on(group.run(1, gated(ledger, gate))).unwrap();
        };
        let other = {
            let (group, ledger, gate) = (group.clone(), Arc::clone(&ledger), gate.clone());
            thread::spawn(move || call(&group, &ledger, &gate))
        };
        let opener = {
            let gate = gate.clone();
            thread::spawn(move || gate.open())
        };
        call(&group, &ledger, &gate);
        other.join().unwrap();
        opener.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The driver polls once and leaves, while another caller joins. The work goes on from where it stands, and runs once.
#[test]
fn driver_dropped_join() {
    for cancels in [false, true] {
        explore("driver dropped/join", upto(2, 2, 3), move || {
            let (group, ledger, gate) = (
                if cancels { group_that_cancels() } else { group() },
                Arc::new(Ledger::default()),
                Gate::new(),
            );
            let fickle = {
                let (group, work) = (group.clone(), gated(&ledger, &gate));
                thread::spawn(move || drop(poll_once_and_drop(group.run(1, work))))
            };
            let opener = {
                let gate = gate.clone();
                thread::spawn(move || gate.open())
            };
            block_on(group.run(1, gated(&ledger, &gate))).unwrap();
            fickle.join().unwrap();
            opener.join().unwrap();
            block_on(group.drain());
            join_tasks();
            ledger.check();
        });
    }
}

/// The only caller leaves while another comes. With `Finish` the work runs on. With `Cancel` it is dropped before the next work
/// begins.
#[test]
fn abandon_join() {
    for cancels in [false, true] {
        explore("abandon/join", upto(3, 4, 5), move || {
            let (group, ledger) = (
                if cancels { group_that_cancels() } else { group() },
                Arc::new(Ledger::default()),
            );
            let work = |ledger: &Arc<Ledger>| {
                let ledger = Arc::clone(ledger);
                move || {
                    let begun = ledger.begin();
                    assert_eq!(
                        ledger.begun() - 1,
                        ledger.dropped.load(std::sync::atomic::Ordering::Relaxed),
                        "a key ran beside itself"
                    );
                    async move {
                        YieldOnce::new().await;
                        begun.value()
                    }
                }
            };
            let fickle = {
                let (group, work) = (group.clone(), work(&ledger));
                thread::spawn(move || drop(poll_once_and_drop(group.run(1, work))))
            };
            block_on(group.run(1, work(&ledger))).unwrap();
            fickle.join().unwrap();
            block_on(group.drain());
            join_tasks();
            ledger.check();
            let stats = group.stats();
            assert_eq!(stats.led as usize, ledger.begun());
            if cancels {
                assert_eq!(stats.abandoned, 0);
            } else {
                assert_eq!(stats.cancelled, 0);
            }
        });
    }
}

/// Work that needs two wake-ups is abandoned after the first was sent, while another caller joins. The second wake-up reaches
/// the task that goes on with the work, although the first may have woken that task for nothing.
#[test]
fn abandon_join_wake() {
    explore("abandon/join/two wakes", upto(2, 2, 3), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let (first, second) = (Gate::new(), Gate::new());
        let work = |ledger: &Arc<Ledger>| {
            let (ledger, first, second) = (Arc::clone(ledger), first.clone(), second.clone());
            move || {
                let execution = ledger.begin();
                async move {
                    first.opened().await;
                    second.opened().await;
                    execution.value()
                }
            }
        };
        let opener = {
            let (first, second) = (first.clone(), second.clone());
            thread::spawn(move || {
                first.open();
                second.open();
            })
        };
        // The first caller leaves at once. Whether the second one joins it or leads is up to the model.
        drop(poll_once_and_drop(group.run(1, work(&ledger))));
        block_on(group.run(1, work(&ledger))).unwrap();
        opener.join().unwrap();
        block_on(group.drain());
        join_tasks();
        ledger.check();
    });
}

/// One caller completes while another, which has joined or leads, leaves.
#[test]
fn follower_drops_complete() {
    let bound = upto(3, 5, 6);
    explore("join/last follower drops, driver dropped/complete", bound, || {
        let (group, ledger) = (group_that_cancels(), Arc::new(Ledger::default()));
        let fickle = {
            let (group, work) = (group.clone(), yielding(&ledger));
            thread::spawn(move || drop(poll_once_and_drop(group.run(1, work))))
        };
        let kept = block_on(group.run(1, yielding(&ledger))).unwrap().value;
        fickle.join().unwrap();
        drop(kept);
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The leader is alive and not polled. Of two followers in other tasks, the one that comes first goes on with the work.
#[test]
fn idle_driver_racing_followers() {
    explore("idle driver/two followers race to drive", upto(2, 2, 3), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let mut idle = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(idle.as_mut()).is_pending());
        let followers: Vec<_> = (0..2)
            .map(|_| {
                let (group, work) = (group.clone(), gated(&ledger, &gate));
                thread::spawn(move || drop(block_on(group.run(1, work)).unwrap()))
            })
            .collect();
        gate.open();
        for follower in followers {
            follower.join().unwrap();
        }
        let outcome = block_on(idle).unwrap();
        assert!(outcome.value.number >= 1);
        drop(outcome);
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The driver has polled and is not polled again. A standby of another task is woken.
#[test]
fn idle_driver_standby() {
    explore("idle driver/standby", upto(3, 6, 6), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let mut idle = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(idle.as_mut()).is_pending());
        let follower = {
            let (group, work) = (group.clone(), gated(&ledger, &gate));
            thread::spawn(move || drop(block_on(group.run(1, work)).unwrap()))
        };
        // The driver may be polled once more, so that it may be the one that is woken.
        let done = poll_once(idle.as_mut()).is_ready();
        gate.open();
        follower.join().unwrap();
        if !done {
            drop(block_on(idle).unwrap());
        }
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// Work that never ends is aborted while it is polled, parked, or not begun.
#[test]
fn abort_poll() {
    explore("abort/poll", upto(3, 8, 8), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let caller = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || {
                block_on(group.run(1, move || {
                    let execution = ledger.begin();
                    async move {
                        let _execution = execution;
                        YieldOnce::new().await;
                        std::future::pending().await
                    }
                }))
                .map(|outcome| outcome.role)
            })
        };
        while !group.abort(&1) {
            thread::yield_now();
        }
        assert_eq!(caller.join().unwrap(), Err(FlightError::Aborted));
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The leader and two followers take a result at the same time. It is moved once at most, and never while it is copied.
#[test]
fn move_clone() {
    explore("result moved/result cloned", upto(2, 2, 3), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let mut first = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(first.as_mut()).is_pending());
        let followers: Vec<_> = (0..2)
            .map(|_| {
                let group = group.clone();
                thread::spawn(move || drop(block_on(group.join(&1)).map(Result::unwrap)))
            })
            .collect();
        gate.open();
        drop(block_on(first).unwrap());
        for follower in followers {
            follower.join().unwrap();
        }
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The two callers that polled the work last are woken, and leave. The third one, which only waits, must be woken then.
#[test]
fn told_callers_drop() {
    explore("hand-over/the callers that were woken drop", upto(3, 5, 6), || {
        let (group, ledger, gate) = (group_that_cancels(), Arc::new(Ledger::default()), Gate::new());
        let mut first = Box::pin(group.run(1, gated(&ledger, &gate)));
        let mut second = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        let third = {
            let (group, work) = (group.clone(), gated(&ledger, &gate));
            thread::spawn(move || drop(block_on(group.run(1, work)).unwrap()))
        };
        gate.open();
        drop(first);
        drop(second);
        third.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// A flight is forgotten, and another one begins while the forgotten one lands.
#[test]
fn forget_rejoin() {
    explore("forget/rejoin", Bound::NONE, || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let mut old = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(old.as_mut()).is_pending());
        assert!(group.forget(&1));
        let never = Gate::new();
        let mut new = Box::pin(group.run(1, gated(&ledger, &never)));
        assert!(poll_once(new.as_mut()).is_pending());
        let opener = thread::spawn(move || gate.open());
        drop(block_on(old).unwrap());
        // The successor is still there to be joined.
        let mut joins = Box::pin(group.join(&1));
        assert!(poll_once(joins.as_mut()).is_pending(), "the successor was removed");
        never.open();
        drop(block_on(new).unwrap());
        drop(block_on(joins).unwrap().unwrap());
        opener.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// A flight is forgotten while it lands. Its successor is not removed with it.
#[test]
fn forget_complete() {
    explore("forget/complete", upto(3, 7, 7), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let call = |group: &Group<u8, Value>, ledger: &Arc<Ledger>| {
            block_on(group.run(1, yielding(ledger))).unwrap();
        };
        let forgetful = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || {
                group.forget(&1);
                call(&group, &ledger);
            })
        };
        call(&group, &ledger);
        forgetful.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// A flight is aborted while it lands. Its callers get the result or the error, and nothing is left.
#[test]
fn abort_complete() {
    explore("abort/complete", upto(3, 8, 8), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let aborter = {
            let group = group.clone();
            thread::spawn(move || group.abort(&1))
        };
        let outcome = block_on(group.run(1, yielding(&ledger)));
        let aborted = aborter.join().unwrap();
        match outcome {
            Ok(outcome) => drop(outcome.value),
            Err(FlightError::Aborted) => assert!(aborted),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The work panics while another caller joins. Either both callers get the panic, or the other one runs its own work.
#[test]
fn panic_join() {
    explore("panic/join", upto(3, 6, 6), || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let call = |group: &Group<u8, Value>, ledger: &Arc<Ledger>| {
            let ledger = Arc::clone(ledger);
            let outcome = block_on(group.run(1, move || {
                let execution = ledger.begin();
                async move {
                    YieldOnce::new().await;
                    let _execution = execution;
                    std::panic::resume_unwind(Box::new("out of paper"))
                }
            }));
            match outcome {
                Err(FlightError::Panicked(panic)) => assert_eq!(panic.message(), "out of paper"),
                _ => panic!("the panic was not delivered"),
            }
        };
        let other = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || call(&group, &ledger))
        };
        call(&group, &ledger);
        other.join().unwrap();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// The group is closed and drained while a call comes. The call is refused, or it is over when the drain is.
#[test]
fn close_join_drain() {
    let bound = Bound {
        newest: [Some(4), None],
        ..Bound::NONE
    };
    explore("close/join/drain", bound, || {
        let (group, ledger) = (group(), Arc::new(Ledger::default()));
        let caller = {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || {
                let outcome = block_on(group.run(1, yielding(&ledger)));
                matches!(outcome, Ok(_) | Err(FlightError::Closed))
            })
        };
        group.close();
        block_on(group.drain());
        let begun = ledger.begun();
        assert_eq!(
            ledger.dropped.load(std::sync::atomic::Ordering::Relaxed),
            begun,
            "drained too early"
        );
        assert!(caller.join().unwrap());
        assert_eq!(ledger.begun(), begun, "a flight began after close");
        ledger.check();
    });
}

/// Callers are woken in rounds of one, those after the first round by a task. All are woken, even if a waiting caller leaves
/// meanwhile.
#[test]
fn wake_in_rounds() {
    wake_in_rounds_of(1);
    explore("waking in rounds/caller leaves", upto(2, 3, 3), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let mut leader = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(leader.as_mut()).is_pending());
        // Two callers that are kept and not polled again: one is woken for the work, the other is the whole first round.
        let idle = [(); 2].map(|()| {
            let mut idle = Box::pin(group.run(1, gated(&ledger, &gate)));
            assert!(poll_once(idle.as_mut()).is_pending());
            idle
        });
        let other = {
            let (group, ledger, gate) = (group.clone(), Arc::clone(&ledger), gate.clone());
            thread::spawn(move || drop(block_on(group.run(1, gated(&ledger, &gate))).unwrap()))
        };
        gate.open();
        drop(block_on(leader).unwrap());
        drop(idle);
        other.join().unwrap();
        join_tasks();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// With loads that may be stale, the models of three threads that are woken together end only with so few preemptions.
const fn stale_upto(short: usize, long: usize) -> Bound {
    Bound {
        any: [Some(short), Some(long)],
        newest: [Some(2), Some(3)],
    }
}

type Call = Pin<Box<dyn Future<Output = Result<Value, FlightError>> + Send>>;

/// A call that waits for the gate once it is polled.
fn call(group: &Group<u8, Value>, ledger: &Arc<Ledger>, gate: &Gate) -> Call {
    let (group, work) = (group.clone(), gated(ledger, gate));
    Box::pin(async move { group.run(1, work).await.map(|outcome| outcome.value) })
}

/// Callers that wait for the gate in this thread, polled once.
fn waiting<const N: usize>(group: &Group<u8, Value>, ledger: &Arc<Ledger>, gate: &Gate) -> [Call; N] {
    std::array::from_fn(|_| {
        let mut call = call(group, ledger, gate);
        assert!(poll_once(call.as_mut()).is_pending());
        call
    })
}

/// Polls all of them in one task.
async fn all<F: Future<Output = Result<Value, FlightError>> + Unpin, const N: usize>(calls: [F; N]) {
    let mut calls: Vec<_> = calls.into();
    std::future::poll_fn(|cx| {
        calls.retain_mut(|call| match Pin::new(call).poll(cx) {
            Poll::Ready(outcome) => {
                drop(outcome.unwrap());
                false
            }
            Poll::Pending => true,
        });
        match calls.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Callers are woken in rounds, and the task that sees to the rest never comes, because all threads of its runtime are blocked. A
/// caller in another thread is woken by those that take their results: on workers of that runtime by one of two, elsewhere by each.
#[test]
fn wake_beside_a_blocked_task() {
    spawn_onto(Runtime::Blocked);
    for (workers, round) in [(false, 1), (true, 3)] {
        wake_in_rounds_of(round);
        let name = format!(
            "waking in rounds{}, task blocked/caller joins",
            if workers { " on workers" } else { "" }
        );
        explore(&name, upto(2, 4, 4), move || {
            let run = move || {
                run_as_worker(workers);
            };
            run();
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            let callers: [_; 5] = waiting(&group, &ledger, &gate);
            let other = {
                let (group, work) = (group.clone(), gated(&ledger, &gate));
                thread::spawn(move || {
                    run();
                    drop(block_on(group.run(1, work)).unwrap());
                })
            };
            gate.open();
            block_on(all(callers));
            other.join().unwrap();
            join_tasks();
            assert_eq!(group.in_flight(), 0);
            ledger.check();
        });
    }
}

/// On workers of one runtime, neither the first round nor the one that the leader wakes is polled. The task wakes the caller in
/// another thread.
#[test]
fn task_wakes_the_rest() {
    spawn_onto(Runtime::Steady);
    wake_in_rounds_of(1);
    explore(
        "waking in rounds on workers, first round idle/caller joins",
        stale_upto(0, 1),
        || {
            run_as_worker(true);
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            let [leader, idle @ ..]: [_; 4] = waiting(&group, &ledger, &gate);
            let other = {
                let (group, work) = (group.clone(), gated(&ledger, &gate));
                thread::spawn(move || {
                    run_as_worker(true);
                    drop(block_on(group.run(1, work)).unwrap());
                })
            };
            gate.open();
            drop(block_on(leader).unwrap());
            other.join().unwrap();
            drop(idle);
            join_tasks();
            assert_eq!(group.in_flight(), 0);
            ledger.check();
        },
    );
}

/// Aborts the flight of these calls, of which the list holds the first, the idle ones, and the last; the first and the last are
/// polled in threads of their own then. Each of the two is to be told, although no idle one is polled.
fn abort_and_await<F>(group: &Group<u8, Value>, first: F, idle: impl Sized, last: F, meanwhile: impl FnOnce())
where
    F: Future<Output = Result<Value, FlightError>> + Send + 'static,
{
    let threads = [first, last].map(|call| thread::spawn(move || assert!(block_on(call).is_err())));
    assert!(group.abort(&1));
    meanwhile();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(idle);
    join_tasks();
    assert_eq!(group.in_flight(), 0);
}

/// The first that is woken may take its result before the others of its round are woken. It wakes the last one all the same.
#[test]
fn wake_in_the_first_round() {
    spawn_onto(Runtime::Blocked);
    wake_in_rounds_of(2);
    explore("waking in rounds/first of a round leaves", stale_upto(1, 1), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let [first, idle, last] = waiting(&group, &ledger, &gate);
        abort_and_await(&group, first, idle, last, || ());
        ledger.check();
    });
}

/// Callers on one runtime's workers and callers elsewhere share a flight, and all threads of the runtime are blocked. One that is
/// polled elsewhere wakes the other, whether they have joined there or have moved there. It is polled in the thread that lands the
/// flight, after that: with a thread of its own, the search takes too long. The other one, if it joins elsewhere, is not polled again
/// before it is woken, since a second poll would be seen to be elsewhere; so the flight lands when it has joined.
#[test]
fn wake_beside_blocked_workers() {
    spawn_onto(Runtime::Blocked);
    wake_in_rounds_of(4);
    for (moves, name) in [(false, "joins elsewhere"), (true, "moves elsewhere")] {
        // What moves as the flight lands may be seen only when the first round, of those on workers, has been woken.
        wake_first(if moves { 2 } else { 4 });
        let name = format!("waking beside blocked workers/caller {name}");
        explore(&name, upto(2, 3, 3), move || {
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            run_as_worker(true);
            let leader: [_; 1] = waiting(&group, &ledger, &gate);
            run_as_worker(moves);
            let [first] = waiting(&group, &ledger, &gate);
            run_as_worker(true);
            let idle: [_; 2] = waiting(&group, &ledger, &gate);
            let mut last = call(&group, &ledger, &gate);
            assert!(!moves || poll_once(last.as_mut()).is_pending());
            let lands = |first: Call| {
                let group = group.clone();
                thread::spawn(move || {
                    assert!(group.abort(&1));
                    assert!(block_on(first).is_err());
                })
            };
            let mut first = Some(first);
            let mut thread = first.take_if(|_| moves).map(&lands);
            run_as_worker(false);
            let told = std::future::poll_fn(|cx| {
                let polled = last.as_mut().poll(cx);
                thread = thread.take().or_else(|| first.take().map(&lands));
                polled
            });
            assert!(block_on(told).is_err());
            thread
                .expect("the flight lands once the last has joined")
                .join()
                .unwrap();
            drop(last);
            drop((leader, idle));
            join_tasks();
            assert_eq!(group.in_flight(), 0);
            ledger.check();
        });
    }
}

/// Two workers count at the same time. The second of them wakes others, the last one among them.
#[test]
fn wake_together() {
    spawn_onto(Runtime::Blocked);
    wake_in_rounds_of(4);
    explore("waking together/two take their results", stale_upto(0, 0), || {
        run_as_worker(true);
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let [first, second, idle, other, last] = waiting(&group, &ledger, &gate);
        // The first may be landing the flight meanwhile, so the second waits for that.
        abort_as_workers(&group, first, (idle, other), last, || {
            assert!(block_on(second).is_err())
        });
        ledger.check();
    });
}

/// Their runtime ends while one of its workers counts.
#[test]
fn wake_together_as_the_runtime_ends() {
    spawn_onto(Runtime::Blocked);
    wake_in_rounds_of(4);
    explore("waking together/runtime ends", stale_upto(0, 1), || {
        run_as_worker(true);
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        let [first, idle @ .., last]: [_; 6] = waiting(&group, &ledger, &gate);
        abort_as_workers(&group, first, idle, last, join_tasks);
        ledger.check();
    });
}

/// As [`abort_and_await`], with threads that are workers.
fn abort_as_workers<F>(group: &Group<u8, Value>, first: F, idle: impl Sized, last: F, meanwhile: impl FnOnce())
where
    F: Future<Output = Result<Value, FlightError>> + Unpin + Send + 'static,
{
    let as_worker = |mut call: F| async move {
        std::future::poll_fn(move |cx| {
            run_as_worker(true);
            Pin::new(&mut call).poll(cx)
        })
        .await
    };
    let (first, last) = (Box::pin(as_worker(first)), Box::pin(as_worker(last)));
    abort_and_await(group, first, idle, last, meanwhile);
}

/// The same as abandon/join, with a flight that has had followers: joining does not change its word then.
#[test]
fn abandon_join_shared() {
    let bound = Bound {
        any: [Some(3), None],
        newest: [Some(3), None],
    };
    explore("abandon/join, joined before", bound, || {
        let (group, ledger, gate) = (group_that_cancels(), Arc::new(Ledger::default()), Gate::new());
        let mut leader = Box::pin(group.run(1, gated(&ledger, &gate)));
        assert!(poll_once(leader.as_mut()).is_pending());
        assert!(poll_once_and_drop(group.run(1, gated(&ledger, &gate))).is_none());
        gate.open();
        let joiner = {
            let (group, ledger, gate) = (group.clone(), Arc::clone(&ledger), gate.clone());
            thread::spawn(move || drop(block_on(group.run(1, gated(&ledger, &gate))).unwrap()))
        };
        drop(leader);
        joiner.join().unwrap();
        join_tasks();
        assert_eq!(group.in_flight(), 0);
        ledger.check();
    });
}

/// Spawned or abandoned work is left to a task that is never polled, or not any more. A caller elsewhere goes on with the work.
/// The task, dropped meanwhile or later, finds nothing to do.
#[test]
fn left_task_join() {
    for polls in [0, 1] {
        for drive in [Drive::InPlace, Drive::Spawned] {
            spawn_onto(Runtime::Left { polls });
            let name = format!("{drive:?} task polled {polls} times and left/join/wake/task dropped");
            explore(&name, upto(2, 2, 3), move || {
                let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
                drop(poll_once_and_drop(group.run(1, gated(&ledger, &gate)).drive(drive)));
                let elsewhere = {
                    let (group, ledger, gate) = (group.clone(), Arc::clone(&ledger), gate.clone());
                    thread::spawn(move || drop(block_on(group.run(1, gated(&ledger, &gate))).unwrap()))
                };
                gate.open();
                elsewhere.join().unwrap();
                assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
                join_tasks();
                ledger.check();
            });
        }
    }
}

/// The runtime of such a task is dropped while a caller elsewhere takes over its work.
#[test]
fn left_task_dropped() {
    for polls in [0, 1] {
        spawn_onto(Runtime::Left { polls });
        let name = format!("task polled {polls} times and left/a caller takes over/task dropped");
        explore(&name, upto(3, 4, 4), || {
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            drop(poll_once_and_drop(group.run(1, gated(&ledger, &gate))));
            let mut elsewhere = Box::pin(group.run(1, gated(&ledger, &gate)));
            assert!(poll_once(elsewhere.as_mut()).is_pending());
            gate.open();
            let runtime = thread::spawn(join_tasks);
            drop(block_on(elsewhere).unwrap());
            runtime.join().unwrap();
            assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
            ledger.check();
        });
    }
}

/// The caller or the drain that stands by for such a task leaves as it is woken. Another caller, which only waits, must be woken
/// then.
#[test]
fn left_task_standby_drops() {
    for drains in [false, true] {
        spawn_onto(Runtime::Left { polls: 1 });
        let name = format!(
            "task left/its standby{} is told and drops",
            if drains { ", a drain," } else { "" }
        );
        explore(&name, upto(2, 4, 4), move || {
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            drop(poll_once_and_drop(group.run(1, gated(&ledger, &gate))));
            let mut standby: Pin<Box<dyn Future<Output = ()>>> = match drains {
                true => Box::pin(group.drain()),
                false => Box::pin(async { drop(group.run(1, gated(&ledger, &gate)).await) }),
            };
            assert!(poll_once(Pin::new(&mut standby)).is_pending());
            let other = {
                let (group, ledger, gate) = (group.clone(), Arc::clone(&ledger), gate.clone());
                thread::spawn(move || drop(block_on(group.run(1, gated(&ledger, &gate))).unwrap()))
            };
            gate.open();
            drop(standby);
            other.join().unwrap();
            assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
            join_tasks();
            ledger.check();
        });
    }
}

/// A task may be late and is not, and a caller stands by for it. One of them polls the work, and never both at once.
#[test]
fn late_task_races_standby() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        spawn_onto(Runtime::Driven);
        explore(&format!("{drive:?} task/standby/wake"), upto(2, 3, 3), move || {
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            drop(poll_once_and_drop(group.run(1, gated(&ledger, &gate)).drive(drive)));
            let mut standby = Box::pin(group.run(1, gated(&ledger, &gate)));
            assert!(poll_once(standby.as_mut()).is_pending());
            gate.open();
            drop(block_on(standby).unwrap());
            assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
            join_tasks();
            ledger.check();
        });
    }
}

/// A drain stands by for a task that is left while the group is drained.
#[test]
fn drain_helps() {
    for polls in [0, 1] {
        spawn_onto(Runtime::Left { polls });
        let name = format!("abandon/task polled {polls} times and left/wake/drain");
        explore(&name, upto(2, 3, 3), || {
            let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
            let mut call = {
                let (group, work) = (group.clone(), gated(&ledger, &gate));
                Box::pin(async move { drop(group.run(1, work).await) })
            };
            assert!(poll_once(call.as_mut()).is_pending());
            let abandons = thread::spawn(move || {
                drop(call);
                gate.open();
            });
            block_on(group.drain());
            assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
            abandons.join().unwrap();
            join_tasks();
            ledger.check();
            let stats = group.stats();
            assert_eq!((stats.abandoned, stats.finished_unattended), (1, 1));
        });
    }
}

/// A drain stands by for a task that comes after all. One of them polls the work, and never both at once.
#[test]
fn late_task_races_drain() {
    spawn_onto(Runtime::Driven);
    explore("task/drain/wake", upto(2, 3, 3), || {
        let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
        drop(poll_once_and_drop(group.run(1, gated(&ledger, &gate))));
        let mut drain = Box::pin(group.drain());
        assert!(poll_once(drain.as_mut()).is_pending());
        gate.open();
        block_on(drain);
        assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
        join_tasks();
        ledger.check();
        let stats = group.stats();
        assert_eq!((stats.abandoned, stats.finished_unattended), (1, 1));
    });
}

/// Work makes a call for a key that another caller calls for as well, and is too deep to poll that flight's work itself. Whether
/// the call leads or joins, a task goes on with the flight's work or, where tasks may not be polled, the outermost poll does. The
/// result reaches both callers.
#[test]
fn deep_call_join() {
    // With a task there are four threads, which stale loads multiply.
    let bound = Bound {
        any: [Some(0), Some(1)],
        newest: [Some(2), Some(3)],
    };
    for runtime in [Runtime::Steady, Runtime::Left { polls: 0 }] {
        spawn_onto(runtime);
        explore(&format!("deep call/join, tasks: {runtime:?}"), bound, || {
            nest_at_most(1);
            let (group, ledger) = (group(), Arc::new(Ledger::default()));
            let other = {
                let (group, ledger) = (group.clone(), Arc::clone(&ledger));
                thread::spawn(move || drop(block_on(group.run(2, yielding(&ledger))).unwrap()))
            };
            drop(block_on(group.run(1, calls(&group, yielding(&ledger)))).unwrap());
            other.join().unwrap();
            join_tasks();
            assert_eq!(group.in_flight(), 0);
            ledger.check();
        });
    }
}

/// Such a call stands by for a task that is left. The outermost poll goes on with the work.
#[test]
fn deep_standby() {
    for polls in [0, 1] {
        spawn_onto(Runtime::Left { polls });
        explore(
            &format!("task polled {polls} times and left/deep call/wake"),
            upto(2, 3, 3),
            || {
                nest_at_most(1);
                let (group, ledger, gate) = (group(), Arc::new(Ledger::default()), Gate::new());
                drop(poll_once_and_drop(
                    group.run(2, gated(&ledger, &gate)).drive(Drive::Spawned),
                ));
                let opens = {
                    let gate = gate.clone();
                    thread::spawn(move || gate.open())
                };
                drop(block_on(group.run(1, calls(&group, gated(&ledger, &gate)))).unwrap());
                opens.join().unwrap();
                assert_eq!((ledger.begun(), group.in_flight()), (1, 0));
                join_tasks();
                ledger.check();
            },
        );
    }
}

/// Work that makes a call for key 2, which is run with `work`.
fn calls<W: Future<Output = Value> + Send + 'static>(
    group: &Group<u8, Value>,
    work: impl FnOnce() -> W + Send + 'static,
) -> impl FnOnce() -> Work {
    let group = group.clone();
    move || -> Work { Box::pin(async move { group.run(2, work).await.unwrap().value }) }
}
