//! Promise 3, *futurelock*: a driver that is alive but not polled holds no caller up, and neither does a runtime that
//! exists and is not driven.

use crate::common::{Gate, Task, yield_once};
use futures::FutureExt;
use futures::future::BoxFuture;
use oneflight::{Drive, FlightError, Group, OnAbandon, Role};
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

#[tokio::test]
async fn two_callers_in_one_select_the_driver_left_unpolled() {
    let group: Group<u8, u32> = Group::new();
    let work = || async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        7
    };
    let mut driver = pin!(group.run(1, work));
    // The driver begins, and loses the race.
    tokio::select! {
        biased;
        _ = &mut driver => unreachable!("it is not ready yet"),
        () = std::future::ready(()) => {}
    }
    // It is kept, and not polled, while the same task waits for another caller of the key.
    let follower = tokio::time::timeout(Duration::from_secs(5), group.run(1, work)).await;
    let follower = follower.expect("the idle driver held the follower up").unwrap();
    assert_eq!((follower.value, follower.role), (7, Role::Follower));
    assert_eq!(driver.await.unwrap().value, 7);
    let stats = group.stats();
    assert_eq!((stats.led, stats.taken_over, stats.handed_over), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_driver_in_one_task_and_followers_in_others() {
    let group: Group<u8, u32> = Group::new();
    let (open, opened) = oneshot::channel();
    let mut driver = pin!(group.run(1, move || async move {
        opened.await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        7
    }));
    assert!(futures::poll!(&mut driver).is_pending());
    let followers: Vec<_> = (0..3)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.run(1, || async { 0 }).await.unwrap().value })
        })
        .collect();
    while group.stats().joined < 3 {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    for follower in followers {
        let value = tokio::time::timeout(Duration::from_secs(5), follower).await;
        assert_eq!(value.expect("held up by the idle driver").unwrap(), 7);
    }
    assert_eq!(driver.await.unwrap().value, 7);
    assert_eq!(group.stats().led, 1);
}

#[test]
fn a_standby_of_another_task_is_told_when_many_callers_of_the_drivers_task_stand_before_it() {
    let (group, gate) = (Group::<u8, u32>::new(), Gate::new());
    let mut driver = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            for _ in 0..3 {
                gate.pass().await;
            }
            7
        }
    }));
    driver.pending();
    let mut siblings: Vec<_> = (0..3)
        .map(|_| Task::beside(&driver, group.run(1, || async { 0 })))
        .collect();
    siblings.iter_mut().for_each(Task::pending);
    let mut stranger = Task::new(group.run(1, || async { 0 }));
    stranger.pending();
    // From here on nothing in the driver's task is polled.
    for step in 1..=3 {
        gate.open(1);
        assert!(stranger.wakes() >= step, "the stranger was not told of step {step}");
        if step < 3 {
            stranger.pending();
        }
    }
    assert_eq!(stranger.ready().unwrap().value, 7);
    let stats = group.stats();
    assert!(stats.taken_over >= 1, "{stats:?}");
}

#[test]
fn a_first_follower_takes_nothing_over_from_a_driver_who_is_polled() {
    let (group, gate) = (Group::<u8, u32>::new(), Gate::new());
    let mut driver = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            gate.pass().await;
            7
        }
    }));
    driver.pending();
    let mut follower = Task::new(group.run(1, || async { 0 }));
    follower.pending();
    gate.open(1);
    assert!(driver.wakes() > 0, "the driver is told, although another polled last");
    driver.pending();
    gate.open(1);
    assert_eq!(driver.ready().unwrap().value, 7);
    assert_eq!(follower.ready().unwrap().value, 7);
    let stats = group.stats();
    assert_eq!((stats.taken_over, stats.handed_over), (0, 0));
}

#[tokio::test]
async fn spawned_work_needs_nobody_to_be_polled() {
    let group: Group<u8, u32> = Group::builder().drive(Drive::Spawned).build();
    let (tell, told) = oneshot::channel();
    let mut leader = pin!(group.run(1, || async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tell.send(()).unwrap();
        7
    }));
    assert!(futures::poll!(&mut leader).is_pending());
    // The leader is not polled meanwhile.
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .unwrap()
        .unwrap();
    let outcome = leader.await.unwrap();
    assert_eq!((outcome.value, outcome.role), (7, Role::Leader));
    assert_eq!(group.in_flight(), 0);
}

#[tokio::test]
async fn spawned_work_is_shared_and_survives_its_callers() {
    let group: Group<u8, u32> = Group::new();
    let (tell, told) = oneshot::channel();
    let mut leader = Box::pin(
        group
            .run(1, || async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                tell.send(()).unwrap();
                7
            })
            .drive(Drive::Spawned),
    );
    assert!(futures::poll!(&mut leader).is_pending());
    let mut follower = Box::pin(group.run(1, || async { 0 }));
    assert!(futures::poll!(&mut follower).is_pending());
    drop((leader, follower));
    told.await.unwrap();
    group.drain().await;
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.finished_unattended), (1, 1, 1));
}

/// A runtime that runs its tasks only while a thread is inside its `block_on`.
fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

/// What `act` returns on a thread of its own; a panic if that takes long.
fn on_another_thread<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || drop(tell.send(act())));
    let told = told.recv_timeout(Duration::from_secs(20));
    told.expect("held up by a runtime that nobody drives")
}

/// Work of two steps, each of which waits for the gate.
fn two_steps(gate: &Gate) -> impl Future<Output = u32> + Send + use<> {
    let gate = gate.clone();
    async move {
        gate.pass().await;
        gate.pass().await;
        7
    }
}

/// Opens the gate for one step after the other, once the work waits there.
fn open_in_steps(gate: &Gate) {
    let gate = gate.clone();
    std::thread::spawn(move || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(5));
            gate.open(1);
        }
    });
}

#[test]
fn work_that_was_left_to_a_runtime_nobody_drives_is_driven_by_callers_elsewhere() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
        let work = two_steps(&gate);
        let left = runtime.block_on(async { group.run(1, || work).drive(drive).now_or_never() });
        assert!(left.is_none());
        open_in_steps(&gate);
        let elsewhere = group.clone();
        let outcome = on_another_thread(move || futures::executor::block_on(elsewhere.run(1, || async { 0 })));
        let outcome = outcome.unwrap();
        assert_eq!((outcome.value, outcome.role), (7, Role::Follower), "{drive:?}");
        assert_eq!(group.in_flight(), 0);
        let stats = group.stats();
        assert_eq!((stats.led, stats.taken_over, stats.finished_unattended), (1, 1, 0));
        drop(runtime);
        assert_eq!(group.stats(), stats, "the task had nothing left to do");
    }
}

/// The task has polled the work, and waits for its next step as its runtime is left alone.
#[test]
fn work_whose_task_is_not_polled_any_more_is_driven_by_callers_elsewhere() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
        let work = two_steps(&gate);
        runtime.block_on(async {
            let mut left = Task::new(group.run(1, || work).drive(drive));
            left.pending();
            left.drop();
            yield_once().await;
            tokio::task::yield_now().await;
        });
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let group = group.clone();
                let (tell, told) = mpsc::channel();
                std::thread::spawn(move || {
                    let call = group.run(1, || async { 0 });
                    let _ = tell.send(futures::executor::block_on(call).unwrap().value);
                });
                told
            })
            .collect();
        while group.stats().joined < 3 {
            std::thread::yield_now();
        }
        open_in_steps(&gate);
        for caller in callers {
            let value = caller.recv_timeout(Duration::from_secs(20));
            assert_eq!(value.expect("held up by a runtime that nobody drives"), 7);
        }
        assert_eq!((group.in_flight(), group.stats().led), (0, 1));
    }
}

#[test]
fn a_leader_drives_what_it_spawned_onto_a_runtime_that_nobody_drives() {
    let (gate, runtime) = (Gate::new(), current_thread());
    let group: Group<u8, u32> = Group::builder()
        .drive(Drive::Spawned)
        .runtime(runtime.handle().clone())
        .build();
    let work = two_steps(&gate);
    open_in_steps(&gate);
    let leads = group.clone();
    let outcome = on_another_thread(move || futures::executor::block_on(leads.run(1, || work)));
    assert_eq!(outcome.unwrap().value, 7);
    assert_eq!(group.in_flight(), 0);
}

/// `Handle::block_on` polls its own future only: the runtime's tasks stand still.
#[test]
fn a_caller_inside_the_very_runtime_that_nobody_drives() {
    let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
    let work = two_steps(&gate);
    let left = runtime.block_on(async { group.run(1, || work).now_or_never() });
    assert!(left.is_none());
    open_in_steps(&gate);
    let handle = runtime.handle().clone();
    let outcome = on_another_thread(move || handle.block_on(group.run(1, || async { 0 })));
    assert_eq!(outcome.unwrap().value, 7);
}

#[test]
fn a_task_that_comes_after_all_goes_on_with_the_work() {
    let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
    let work = two_steps(&gate);
    let left = runtime.block_on(async { group.run(1, || work).now_or_never() });
    assert!(left.is_none());
    let mut elsewhere = Task::new(group.run(1, || async { 0 }));
    elsewhere.pending();
    assert_eq!(
        elsewhere.wakes(),
        1,
        "it is to be polled again if the task does not come"
    );
    elsewhere.pending();
    assert_eq!(group.stats().taken_over, 1);
    gate.open(1);
    assert!(elsewhere.wakes() > 1);
    elsewhere.pending();
    // Now the runtime is driven again, and the caller is not polled.
    runtime.block_on(async {
        tokio::task::yield_now().await;
        gate.open(1);
        tokio::task::yield_now().await;
    });
    assert_eq!(group.in_flight(), 0);
    assert_eq!(elsewhere.ready().unwrap().value, 7);
}

#[test]
fn work_that_is_driven_for_its_task_sees_the_tasks_runtime() {
    let (group, runtime, gate) = (Group::<u8, bool>::new(), current_thread(), Gate::new());
    let (id, passes) = (runtime.handle().id(), gate.clone());
    let work = || async move {
        let mut at_home = true;
        for _ in 0..2 {
            at_home &= Handle::try_current().is_ok_and(|runtime| runtime.id() == id);
            passes.pass().await;
        }
        at_home
    };
    let left = runtime.block_on(async { group.run(1, work).drive(Drive::Spawned).now_or_never() });
    assert!(left.is_none());
    gate.open(2);
    let none = group.clone();
    let another = current_thread();
    let at_home = on_another_thread(move || another.block_on(none.run(1, || async { false })));
    assert!(
        at_home.unwrap().value,
        "the work was polled outside of the runtime that it was spawned on"
    );
}

/// What `drain` waits for is driven by it, if by nothing else.
#[test]
fn drain_drives_what_was_left_to_a_runtime_that_nobody_drives() {
    for begun in [false, true] {
        for drive in [Drive::InPlace, Drive::Spawned] {
            let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
            let work = two_steps(&gate);
            let mut left = Task::new(group.run(1, || work).drive(drive));
            runtime.block_on(async {
                left.pending();
                left.drop();
                if begun {
                    tokio::task::yield_now().await;
                }
            });
            open_in_steps(&gate);
            let drains = group.clone();
            on_another_thread(move || futures::executor::block_on(drains.drain()));
            assert_eq!(group.in_flight(), 0);
            let stats = group.stats();
            assert_eq!((stats.led, stats.finished_unattended, stats.cancelled), (1, 1, 0));
            drop(runtime);
            assert_eq!(group.stats(), stats);
        }
    }
}

#[test]
fn drain_drives_what_is_left_while_it_waits() {
    let (group, gate, runtime) = (Group::<u8, u32>::new(), Gate::new(), current_thread());
    let work = two_steps(&gate);
    let mut last = Task::new(group.run(1, || work));
    last.pending();
    let mut drain = Task::new(group.drain());
    drain.pending();
    runtime.block_on(async { last.drop() });
    let told = drain.wakes();
    assert!(told > 0, "nobody else can go on with the work");
    // The task has its chance, then the work is polled.
    drain.pending();
    drain.pending();
    for step in 1..=2 {
        let told = drain.wakes();
        gate.open(1);
        assert!(drain.wakes() > told, "step {step}");
        if step == 1 {
            drain.pending();
        }
    }
    drain.ready();
}

/// The common case: what is spawned stays on its own task, whichever other task is polled.
#[tokio::test]
async fn spawned_work_stays_on_its_task_while_its_runtime_is_driven() {
    for on_abandon in [OnAbandon::Finish, OnAbandon::Cancel] {
        let group: Group<u8, usize> = Group::builder().drive(Drive::Spawned).on_abandon(on_abandon).build();
        let polled_by = Arc::new(Mutex::new(Vec::new()));
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let (group, polled_by) = (group.clone(), Arc::clone(&polled_by));
                tokio::spawn(async move {
                    let own = tokio::task::id();
                    let work = move || async move {
                        for _ in 0..10 {
                            let by = tokio::task::id();
                            assert_ne!(by, own);
                            polled_by.lock().unwrap().push(by);
                            tokio::time::sleep(Duration::from_micros(100)).await;
                        }
                        7
                    };
                    group.run(1, work).await.unwrap().value
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 7);
        }
        let mut polled_by = std::mem::take(&mut *polled_by.lock().unwrap());
        assert_eq!(polled_by.len(), 10);
        polled_by.dedup();
        assert_eq!(polled_by.len(), 1, "more than one task polled the work");
        let stats = group.stats();
        assert_eq!(
            (stats.led, stats.joined, stats.taken_over, stats.handed_over),
            (1, 19, 0, 0)
        );
    }
}

/// A chain of calls: the work for `n` calls for `n - 1`. Each notes if it is polled elsewhere than inside the runtime.
fn chain(group: Group<u8, ()>, outside: Arc<Mutex<Vec<u8>>>, own: tokio::runtime::Id, n: u8) -> BoxFuture<'static, ()> {
    let at_home = move || Handle::try_current().is_ok_and(|runtime| runtime.id() == own);
    Box::pin(async move {
        let calls = group.clone();
        let work = move || async move {
            if !at_home() {
                outside.lock().unwrap().push(n);
            }
            if n > 0 {
                chain(calls, Arc::clone(&outside), own, n - 1).await;
            }
            yield_once().await;
            if !at_home() {
                outside.lock().unwrap().push(n);
            }
        };
        group.run(n, work).await.unwrap();
    })
}

/// What is put off because it is called for too deep inside other work is polled where that was.
#[test]
fn work_that_is_driven_for_its_task_finds_the_tasks_runtime_at_any_depth() {
    for drains in [false, true] {
        let (group, runtime, gate) = (Group::<u8, ()>::new(), current_thread(), Gate::new());
        let outside = Arc::new(Mutex::new(Vec::new()));
        let (passes, below) = (
            gate.clone(),
            chain(group.clone(), Arc::clone(&outside), runtime.handle().id(), 39),
        );
        let work = || async move {
            passes.pass().await;
            below.await;
        };
        let left = runtime.block_on(async { group.run(40, work).now_or_never() });
        assert!(left.is_none());
        gate.open(1);
        let elsewhere = group.clone();
        on_another_thread(move || {
            if drains {
                futures::executor::block_on(elsewhere.drain());
            } else {
                let call = elsewhere.run(40, || async {});
                futures::executor::block_on(call).unwrap();
            }
        });
        assert_eq!(group.in_flight(), 0);
        let outside = std::mem::take(&mut *outside.lock().unwrap());
        assert_eq!(outside, Vec::<u8>::new(), "polled outside of the runtime");
    }
}

/// The flight is not listed any more as it is given its task.
#[test]
fn work_that_was_forgotten_as_it_was_made_finds_its_tasks_runtime() {
    let runtime = current_thread();
    let group: Group<u8, bool> = Group::builder()
        .drive(Drive::Spawned)
        .runtime(runtime.handle().clone())
        .build();
    let (id, forgets) = (runtime.handle().id(), group.clone());
    let make = move || {
        assert!(forgets.forget(&1));
        async move { Handle::try_current().is_ok_and(|runtime| runtime.id() == id) }
    };
    let leads = group.clone();
    let outcome = on_another_thread(move || futures::executor::block_on(leads.run(1, make)));
    assert!(
        outcome.unwrap().value,
        "the work was polled outside of the runtime that it was spawned on"
    );
    assert_eq!(group.in_flight(), 0);
}

/// What is done once, as a task is woken.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }
}

/// Does `act` inside the wake-ups of so many flights, one inside the other.
fn inside_wakes(depth: usize, act: Box<dyn FnOnce() + Send>) {
    let group: Group<usize, ()> = Group::new();
    let mut calls = Vec::new();
    let mut next = act;
    for flight in 0..depth {
        let gate = Gate::new();
        let waits = gate.clone();
        let mut driver = Box::pin(group.run(flight, || async move { waits.pass().await }));
        let waker = Waker::from(Arc::new(Does(Mutex::new(Some(next)))));
        assert!(driver.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // With a follower, the work is polled with the flight's waker.
        let mut follower = Task::new(group.run(flight, || async {}));
        follower.pending();
        calls.push((driver, follower));
        next = Box::new(move || gate.open(1));
    }
    next();
}

/// Deep inside other wake-ups, the end of a flight is put off. Meanwhile it is to be ended, and nothing can end it.
#[test]
fn drain_waits_for_an_end_that_is_put_off() {
    let (group, runtime) = (Group::<u8, ()>::new(), current_thread());
    let left = runtime.block_on(async { group.run(1, std::future::pending).now_or_never() });
    assert!(left.is_none());
    let drains = group.clone();
    let mut drain = Task::new(Box::pin(async move { drains.drain().await }) as BoxFuture<'static, ()>);
    drain.pending();
    let (tell, told) = mpsc::channel();
    let aborts = group.clone();
    let act = Box::new(move || {
        assert!(aborts.abort(&1));
        let in_flight = aborts.in_flight();
        let is_pending = drain.poll().is_pending();
        tell.send((drain, in_flight, is_pending)).unwrap();
    });
    on_another_thread(move || inside_wakes(16, act));
    let (mut drain, in_flight, is_pending) = told.recv().unwrap();
    assert_eq!((in_flight, is_pending), (1, true), "the end was not put off");
    assert!(drain.wakes() > 0);
    drain.ready();
    assert_eq!((group.in_flight(), group.stats().aborted), (0, 1));
}

/// A waker that does something once, as it is cloned.
#[allow(unsafe_code, reason = "a waker by hand")]
fn does_as_it_is_cloned(act: Box<dyn FnOnce() + Send>) -> Waker {
    type Act = Mutex<Option<Box<dyn FnOnce() + Send>>>;
    fn clone(act: *const ()) -> RawWaker {
        // SAFETY: leaked below.
        let now = unsafe { &*act.cast::<Act>() }.lock().unwrap().take();
        if let Some(now) = now {
            now();
        }
        RawWaker::new(act, &TABLE)
    }
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), |_| ());
    let act: &'static Act = Box::leak(Box::new(Mutex::new(Some(act))));
    // What is found from here is no leak to LeakSanitizer.
    static LEAKED: Mutex<Vec<&Act>> = Mutex::new(Vec::new());
    LEAKED.lock().unwrap().push(act);
    // SAFETY: what it points to is leaked and may be shared among threads.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::from_ref(act).cast(), &TABLE)) }
}

/// Polls `innermost` inside the work of so many flights, one inside the other.
fn inside_works(group: Group<u8, ()>, depth: u8, innermost: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let calls = group.clone();
        let work = move || match depth {
            1 => innermost,
            _ => inside_works(calls, depth - 1, innermost),
        };
        group.run(depth, work).await.unwrap();
    })
}

/// Too deep inside other work, a caller without a runtime puts the poll off. Another one, on a runtime with threads, has given
/// the work a task before the first is in the list.
#[test]
fn a_caller_that_puts_the_poll_off_does_not_stand_before_a_task() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let (group, gate) = (Group::<u8, ()>::new(), Gate::new());
    let (tell, told) = mpsc::channel();
    let (keep, kept) = mpsc::channel();
    let (handle, calls) = (runtime.handle().clone(), group.clone());
    let gives_it_a_task = does_as_it_is_cloned(Box::new(move || {
        let _inside = handle.enter();
        let mut second =
            Task::new(Box::pin(async move { calls.run(99, || async {}).await.map(drop) })
                as BoxFuture<Result<(), FlightError>>);
        second.pending();
        keep.send(second).unwrap();
        // Once the only thread of the runtime comes to this, it has polled the work.
        let (come, comes) = mpsc::channel();
        handle.spawn(async move { come.send(()) });
        comes.recv().unwrap();
    }));
    let (passes, calls) = (gate.clone(), group.clone());
    let mut first = Box::pin(async move {
        let work = || async move {
            passes.pass().await;
            passes.pass().await;
            tell.send(()).unwrap();
        };
        calls.run(99, work).await.map(drop)
    });
    let mut wakers = vec![gives_it_a_task, Waker::noop().clone()];
    let innermost = std::future::poll_fn(move |_| {
        let waker = wakers.pop().unwrap();
        let polled = first.as_mut().poll(&mut Context::from_waker(&waker));
        polled.map(|outcome| outcome.unwrap())
    });
    let mut outermost = Task::new(inside_works(group, 16, Box::pin(innermost)));
    outermost.pending();
    gate.open(1);
    outermost.pending();
    let mut second = kept.try_recv().expect("the second call was made meanwhile");
    second.pending();
    gate.open(1);
    let told = told.recv_timeout(Duration::from_secs(20));
    told.expect("the task was not woken for the work");
    while second.wakes() == 0 {
        std::thread::yield_now();
    }
    second.ready().unwrap();
}
