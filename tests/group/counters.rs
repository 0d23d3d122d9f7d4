//! The counters add up: after any history, each call has led, or joined, or was refused. A call is a `run` that was polled,
//! unless its key panicked, or a `join` that did not end with `None`.

use crate::common::{Gate, Task, yield_once};
use futures::executor::block_on;
use oneflight::{Drive, Fingerprint, FlightError, Group, OnAbandon, Role, Stats};
use proptest::prelude::*;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, Once};
use std::task::{Context, Poll, Wake, Waker};

fn calls(stats: Stats) -> u64 {
    stats.led + stats.joined + stats.refused
}

/// How the poll ends in which the work was aborted.
#[derive(Clone, Copy, Debug)]
enum End {
    Ready,
    Panic,
    Pending,
}

/// The work of key 1 is in a long poll when it is aborted; then `late` is done, and then that poll ends.
fn abort_in_a_poll<R>(group: &Group<u8, u8>, end: End, late: impl FnOnce() -> R) -> R {
    quiet();
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    std::thread::scope(|scope| {
        let leader = scope.spawn({
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            move || {
                let work = move || {
                    poll_fn(move |_| {
                        entered.wait();
                        leave.wait();
                        match end {
                            End::Ready => Poll::Ready(7),
                            End::Panic => panic!("as planned"),
                            End::Pending => Poll::Pending,
                        }
                    })
                };
                Task::new(group.run(1, work)).ready()
            }
        });
        entered.wait();
        assert!(group.abort(&1));
        let done = late();
        leave.wait();
        let landed = leader.join().unwrap();
        match end {
            End::Ready => assert_eq!(landed.unwrap().value, 7),
            End::Panic => assert!(matches!(landed, Err(FlightError::Panicked(_))), "{landed:?}"),
            End::Pending => assert_eq!(landed, Err(FlightError::Aborted)),
        }
        done
    })
}

#[test]
fn a_call_that_comes_as_work_is_aborted_and_gets_its_result_has_joined() {
    for end in [End::Ready, End::Panic] {
        let group: Group<u8, u8> = Group::new();
        let (mut late, mut joins) = (Task::new(group.run(1, || async { 2 })), Task::new(group.join(&1)));
        abort_in_a_poll(&group, end, || {
            late.pending();
            joins.pending();
        });
        match end {
            End::Ready => assert_eq!(late.ready().unwrap().role, Role::Follower),
            _ => assert!(late.ready().is_err()),
        }
        assert!(joins.ready().is_some());
        let stats = group.stats();
        assert_eq!((stats.led, stats.joined, stats.refused), (1, 2, 0), "{end:?}");
    }
}

#[test]
fn a_call_that_comes_as_work_is_aborted_and_leads_the_next_flight_has_led() {
    let group: Group<u8, u8> = Group::new();
    let (mut late, mut joins) = (Task::new(group.run(1, || async { 2 })), Task::new(group.join(&1)));
    abort_in_a_poll(&group, End::Pending, || {
        late.pending();
        joins.pending();
    });
    assert!(joins.ready().is_none());
    assert_eq!(late.ready().unwrap().role, Role::Leader);
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.refused), (2, 0, 0));
}

#[test]
fn a_call_that_comes_as_work_is_aborted_and_is_refused_then_was_refused() {
    let group: Group<u8, u8> = Group::new();
    let mut late = Task::new(group.run(1, || async { 2 }));
    abort_in_a_poll(&group, End::Pending, || {
        late.pending();
        group.close();
    });
    assert_eq!(late.ready(), Err(FlightError::Closed));
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.refused), (1, 0, 1));
}

#[test]
fn a_call_that_comes_as_work_is_aborted_and_is_dropped_has_joined() {
    for end in [End::Ready, End::Panic, End::Pending] {
        let group: Group<u8, u8> = Group::new();
        let (mut late, mut joins) = (Task::new(group.run(1, || async { 2 })), Task::new(group.join(&1)));
        abort_in_a_poll(&group, end, || {
            late.pending();
            joins.pending();
            late.drop();
        });
        // Before it hears of the end.
        joins.drop();
        let stats = group.stats();
        assert_eq!((stats.led, stats.joined, stats.refused), (1, 2, 0), "{end:?}");
        // What was never polled is no call.
        drop(group.run(1, || async { 1 }));
        assert!(Task::new(group.join(&1)).ready().is_none());
        assert_eq!(calls(group.stats()), 3);
    }
}

/// Looks at the counters as it is told that nothing is in flight any more.
struct Looks {
    group: Group<u8, u8>,
    seen: Mutex<Option<Stats>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        *self.seen.lock().unwrap() = Some(self.group.stats());
    }
}

/// Drains the group, and has its last flight end meanwhile; what the counters say as the drain learns of that.
fn counted_when_drained(group: &Group<u8, u8>, end: impl FnOnce()) -> Stats {
    quiet();
    let looks = Arc::new(Looks {
        group: group.clone(),
        seen: Mutex::new(None),
    });
    let waker = Waker::from(Arc::clone(&looks));
    let mut cx = Context::from_waker(&waker);
    let mut drain = pin!(group.drain());
    assert!(drain.as_mut().poll(&mut cx).is_pending());
    end();
    let seen = looks.seen.lock().unwrap().take();
    assert!(drain.poll(&mut cx).is_ready());
    seen.expect("the drain is woken")
}

#[test]
fn a_flight_is_counted_before_a_drain_can_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let group: Group<u8, u8> = Group::builder().runtime(runtime.handle().clone()).build();
    let gate = Gate::new();
    let work = |gate: &Gate| {
        let gate = gate.clone();
        || async move {
            gate.pass().await;
            1
        }
    };
    let settle = || {
        runtime.block_on(async {
            while group.in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        });
    };

    for forgotten in [false, true] {
        let mut call = Task::new(group.run(1, work(&gate)));
        call.pending();
        call.drop();
        group.forget(&u8::from(forgotten));
        gate.open(1);
        let stats = counted_when_drained(&group, settle);
        assert_eq!(stats.finished_unattended, 1 + u64::from(forgotten));
    }

    let mut call = Task::new(group.run(1, || async {
        yield_once().await;
        panic!("as planned")
    }));
    call.pending();
    call.drop();
    let stats = counted_when_drained(&group, settle);
    assert_eq!((stats.panicked, stats.finished_unattended), (1, 3));

    // A caller is there.
    let mut call = Task::new(group.run(1, work(&gate)).drive(Drive::Spawned));
    call.pending();
    gate.open(1);
    let stats = counted_when_drained(&group, settle);
    assert_eq!(stats.finished_unattended, 3);
    assert_eq!(call.ready().unwrap().value, 1);

    for drive in [Drive::InPlace, Drive::Spawned] {
        let before = group.stats().aborted;
        let mut call = Task::new(group.run(1, work(&gate)).drive(drive));
        call.pending();
        let stats = counted_when_drained(&group, || assert!(group.abort(&1)));
        assert_eq!(stats.aborted, before + 1);
        assert_eq!(call.ready(), Err(FlightError::Aborted));
    }

    let mut call = Task::new(group.run(1, work(&gate)).on_abandon(OnAbandon::Cancel));
    call.pending();
    let stats = counted_when_drained(&group, || call.drop());
    assert_eq!((stats.cancelled, stats.finished_unattended), (1, 3));
}

/// What one thread of a storm does.
#[derive(Clone, Debug)]
enum Op {
    Run {
        key: u8,
        work: Work,
        proven: bool,
        cancel: bool,
        polls: Option<usize>,
    },
    Join {
        key: u8,
        polls: Option<usize>,
    },
    Abort(u8),
    Forget(u8),
    Close,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// So many polls, each of which takes its time.
    Polls(usize),
    Panics,
    /// It calls its own key.
    Circle,
    /// It calls another key.
    Calls(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..2_u8;
    let polls = prop::option::of(1..3_usize);
    let work = prop_oneof![
        6 => (1..3_usize).prop_map(Work::Polls),
        1 => Just(Work::Panics),
        1 => Just(Work::Circle),
        1 => key.clone().prop_map(Work::Calls),
    ];
    prop_oneof![
        12 => (key.clone(), work, prop::bool::weighted(0.1), any::<bool>(), polls.clone())
            .prop_map(|(key, work, proven, cancel, polls)| Op::Run { key, work, proven, cancel, polls }),
        3 => (key.clone(), polls).prop_map(|(key, polls)| Op::Join { key, polls }),
        8 => key.clone().prop_map(Op::Abort),
        1 => key.prop_map(Op::Forget),
        1 => prop::bool::weighted(0.1).prop_map(|now| if now { Op::Close } else { Op::Abort(0) }),
    ]
}

/// Polls a call to its end, or so often and drops it. What it came to, if it came to anything.
fn go<F: Future>(call: F, polls: Option<usize>) -> Option<F::Output> {
    let Some(polls) = polls else {
        return Some(block_on(call));
    };
    let mut task = Task::new(call);
    for _ in 0..polls {
        if let Poll::Ready(output) = task.poll() {
            return Some(output);
        }
        std::thread::yield_now();
    }
    None
}

async fn work(group: Group<u8, u8>, made: Arc<AtomicU64>, key: u8, work: Work) -> u8 {
    match work {
        Work::Polls(polls) => {
            for poll in 0..polls {
                if poll > 0 {
                    yield_once().await;
                }
                (0..3).for_each(|_| std::thread::yield_now());
            }
        }
        Work::Panics => panic!("as planned"),
        Work::Circle | Work::Calls(_) => {
            let other = if let Work::Calls(other) = work { other } else { key };
            made.fetch_add(1, SeqCst);
            let inner: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(group.run(other, || async { 1 }));
            let _ = inner.await;
        }
    }
    key
}

fn storm(threads: Vec<Vec<Op>>) -> Result<(), TestCaseError> {
    let group: Group<u8, u8> = Group::builder().max_callers(3).shards(1).build();
    let made = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for ops in threads {
            let (group, made) = (&group, &made);
            scope.spawn(move || {
                for op in ops {
                    match op {
                        Op::Run {
                            key,
                            work: kind,
                            proven,
                            cancel,
                            polls,
                        } => {
                            made.fetch_add(1, SeqCst);
                            let run = group.run(key, || work(group.clone(), Arc::clone(made), key, kind));
                            let run = run.on_abandon(if cancel { OnAbandon::Cancel } else { OnAbandon::Finish });
                            if proven {
                                go(run.fingerprint(Fingerprint::from_digest([7; 32])), polls);
                            } else {
                                go(run, polls);
                            }
                        }
                        Op::Join { key, polls } => {
                            if !matches!(go(group.join(&key), polls), Some(None)) {
                                made.fetch_add(1, SeqCst);
                            }
                        }
                        Op::Abort(key) => drop(group.abort(&key)),
                        Op::Forget(key) => drop(group.forget(&key)),
                        Op::Close => group.close(),
                    }
                }
            });
        }
    });
    let stats = group.stats();
    prop_assert_eq!(calls(stats), made.load(SeqCst), "{:?}", stats);
    prop_assert_eq!(group.in_flight(), 0);
    Ok(())
}

/// Planned panics are no news.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload_as_str().is_some_and(|text| text.contains("as planned")) {
                loud(panic);
            }
        }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        // Another run of the same threads is another history.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_counters_add_up_after_any_history(
        threads in prop::collection::vec(prop::collection::vec(op(), 50..150), 2..5)
    ) {
        quiet();
        storm(threads)?;
    }
}
