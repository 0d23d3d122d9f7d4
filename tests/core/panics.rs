//! Promise 5: a panic in the work reaches every caller as an error with its message and frees the key; a panic in
//! other code of the user leaves no caller hanging and no entry behind.

use crate::common::{CountsDrop, Gate, Tally, Task};
use oneflight::{Drive, FlightError, Group, Role};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use tokio::runtime::Handle;

fn message<T: std::fmt::Debug>(outcome: Result<T, FlightError>) -> String {
    match outcome {
        Err(FlightError::Panicked(panic)) => panic.message().to_owned(),
        other => panic!("no panic was delivered: {other:?}"),
    }
}

#[test]
fn a_panic_in_the_work_reaches_everyone_and_frees_the_key() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut callers: Vec<_> = (0..5)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.run(1, move || async move {
                gate.pass().await;
                panic!("order {} is cursed", 7)
            }))
        })
        .collect();
    callers.iter_mut().for_each(Task::pending);
    gate.open(1);
    for mut caller in callers {
        assert_eq!(message(caller.ready()), "order 7 is cursed");
    }
    assert_eq!(group.in_flight(), 0);
    assert_eq!(Task::new(group.run(1, || async { 2 })).ready().unwrap().value, 2);
    assert_eq!(group.stats().panicked, 1);
}

#[test]
fn a_panic_while_the_work_is_made_counts_as_one_of_the_work() {
    let group: Group<u8, u8> = Group::new();
    let make = || -> std::future::Ready<u8> { panic!("no work today") };
    assert_eq!(message(Task::new(group.run(1, make)).ready()), "no work today");
    let payload = || -> std::future::Ready<u8> { std::panic::panic_any(17_u32) };
    assert!(message(Task::new(group.run(1, payload)).ready()).contains("not text"));
    assert_eq!(group.in_flight(), 0);
}

#[tokio::test]
async fn a_panic_in_unattended_or_spawned_work_frees_the_key() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut caller = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            panic!("nobody hears this")
        }
    }));
    caller.pending();
    caller.drop();
    gate.open(1);
    group.drain().await;
    let spawned = group
        .run(1, || async { panic!("heard") })
        .drive(oneflight::Drive::Spawned)
        .await;
    assert_eq!(message(spawned), "heard");
    let unmade = || -> std::future::Ready<u8> { panic!("never made") };
    let unmade = group.run(1, unmade).drive(oneflight::Drive::Spawned).await;
    assert_eq!(message(unmade), "never made");
    assert_eq!((group.in_flight(), group.stats().panicked), (0, 3));
}

/// Work whose destructor panics, as it is done or as it is dropped unfinished.
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 {
            self.0 = false;
            panic!("boom");
        }
    }
}

#[test]
fn a_panic_in_the_destructor_of_the_work() {
    struct Work(Bomb, Gate);
    impl Future for Work {
        type Output = u8;
        fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u8> {
            assert!(self.0.0);
            std::pin::pin!(self.1.pass()).poll(cx).map(|()| 1)
        }
    }
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let call = || {
        let gate = gate.clone();
        Task::new(group.run(1, move || Work(Bomb(true), gate)))
    };
    let (mut leader, mut follower) = (call(), call());
    leader.pending();
    // A follower's closure is dropped with its gate only: it makes no bomb.
    follower.pending();
    gate.open(1);
    assert_eq!(message(leader.ready()), "boom");
    assert_eq!(message(follower.ready()), "boom");
    assert_eq!(group.in_flight(), 0);

    // Unfinished: aborted, and cancelled for want of a runtime.
    let mut aborted = call();
    aborted.pending();
    assert!(group.abort(&1));
    assert_eq!(aborted.ready().unwrap_err(), FlightError::Aborted);
    let mut abandoned = call();
    abandoned.pending();
    abandoned.drop();
    assert_eq!(group.in_flight(), 0);
    assert_eq!(
        Task::new(group.run(1, || std::future::ready(2))).ready().unwrap().value,
        2
    );
}

#[derive(Debug)]
struct Fragile {
    clone: Arc<AtomicBool>,
    _alive: Arc<()>,
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!self.clone.load(SeqCst), "no copies");
        Self {
            clone: Arc::clone(&self.clone),
            _alive: Arc::clone(&self._alive),
        }
    }
}

#[test]
fn a_panic_in_clone_of_the_result_is_that_callers_alone() {
    let (group, gate) = (Group::<u8, Fragile>::new(), Gate::new());
    let (panics, alive) = (Arc::new(AtomicBool::new(false)), Arc::new(()));
    let call = || {
        let (gate, clone, alive) = (gate.clone(), Arc::clone(&panics), Arc::clone(&alive));
        Task::new(group.run(1, move || async move {
            gate.pass().await;
            Fragile { clone, _alive: alive }
        }))
    };
    let (mut leader, mut second, mut third) = (call(), call(), call());
    leader.pending();
    second.pending();
    third.pending();
    gate.open(1);
    panics.store(true, SeqCst);
    assert_eq!(message(leader.ready()), "no copies");
    assert_eq!(message(second.ready()), "no copies");
    // The last one needs no copy.
    drop(third.ready().unwrap());
    assert_eq!(group.in_flight(), 0);
    drop((leader, second, third));
    assert_eq!(Arc::strong_count(&alive), 1, "a result was leaked");
}

#[test]
fn a_panic_in_drop_of_a_result_that_nobody_fetched() {
    #[derive(Clone)]
    struct Value(#[allow(dead_code)] Arc<Bomb>);
    let (group, gate) = (Group::<u8, Value>::new(), Gate::new());
    let call = || {
        let gate = gate.clone();
        Task::new(group.run(1, move || async move {
            gate.pass().await;
            Value(Arc::new(Bomb(true)))
        }))
    };
    let (mut leader, mut follower) = (call(), call());
    leader.pending();
    follower.pending();
    gate.open(1);
    let value = leader.ready().unwrap().value;
    follower.drop();
    assert_eq!(group.in_flight(), 0);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(value)));
    assert!(dropped.is_err(), "the last one to be dropped is ours");

    let mut unclaimed = [call(), call()];
    unclaimed.iter_mut().for_each(Task::pending);
    gate.open(1);
    let first = unclaimed[0].ready().unwrap().value;
    let first = Arc::into_inner(first.0);
    assert!(first.is_none(), "the flight still holds it");
    // Now the flight holds the only one, and drops it as the last caller leaves.
    unclaimed[1].drop();
    assert_eq!(group.in_flight(), 0);
}

/// A key whose `Hash` or `Eq` panics when it is told to.
#[derive(Clone)]
struct Key {
    number: u8,
    hash: Arc<AtomicBool>,
    eq: Arc<AtomicBool>,
}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert!(!self.hash.load(SeqCst), "no hash");
        self.number.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.eq.load(SeqCst) && !other.eq.load(SeqCst), "no eq");
        self.number == other.number
    }
}

impl Eq for Key {}

#[test]
fn a_panic_in_hash_or_eq_is_the_callers_who_brought_the_key() {
    let (group, gate) = (Group::<Key, u8>::new(), Gate::new());
    let key = |number| Key {
        number,
        hash: Arc::default(),
        eq: Arc::default(),
    };
    let call = |key: Key| {
        let gate = gate.clone();
        Task::new(group.run(key, move || async move {
            gate.pass().await;
            1
        }))
    };
    let mut leader = call(key(1));
    leader.pending();
    for number in [1, 2] {
        let bad = key(number);
        bad.hash.store(true, SeqCst);
        assert!(catch_unwind(AssertUnwindSafe(|| call(bad).poll())).is_err());
    }
    let bad = key(1);
    bad.eq.store(true, SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| call(bad).poll())).is_err());
    // The map's locks are free, and the flight is unharmed.
    let mut follower = call(key(1));
    follower.pending();
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 1);
    assert_eq!(follower.ready().unwrap().value, 1);
    assert_eq!(group.in_flight(), 0);
}

/// A waker that panics: as it is cloned, or as it wakes.
fn bad_waker(clone: bool) -> Waker {
    fn panics(_: *const ()) {
        panic!("bad waker");
    }
    fn panics_in_clone(_: *const ()) -> RawWaker {
        panic!("bad waker");
    }
    fn clones(data: *const ()) -> RawWaker {
        RawWaker::new(data, &WAKE)
    }
    fn nothing(_: *const ()) {}
    static WAKE: RawWakerVTable = RawWakerVTable::new(clones, panics, panics, nothing);
    static CLONE: RawWakerVTable = RawWakerVTable::new(panics_in_clone, panics, panics, nothing);
    let table = if clone { &CLONE } else { &WAKE };
    #[allow(unsafe_code)]
    // SAFETY: the functions use no data.
    unsafe {
        Waker::from_raw(RawWaker::new(std::ptr::null(), table))
    }
}

#[test]
fn a_hash_that_panics_or_changes_its_mind_leaves_nothing_behind() {
    for panics in [false, true] {
        // A key that hashes as it is told, whatever it is.
        #[derive(Clone)]
        struct Fickle(u32, Arc<(AtomicBool, std::sync::atomic::AtomicU32)>);
        impl std::hash::Hash for Fickle {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                assert!(!self.1.0.load(SeqCst), "no hash");
                (self.0, self.1.1.load(SeqCst)).hash(state);
            }
        }
        impl PartialEq for Fickle {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
        impl Eq for Fickle {}

        let group: Group<Fickle, String> = Group::<Fickle, String>::builder().shards(1).build();
        let (gate, fickle) = (
            Gate::new(),
            Arc::<(AtomicBool, std::sync::atomic::AtomicU32)>::default(),
        );
        let call = |key: Fickle| {
            let gate = gate.clone();
            Task::new(group.run(key, move || async move {
                gate.pass().await;
                "a result".to_owned()
            }))
        };
        let mut leader = call(Fickle(0, Arc::clone(&fickle)));
        let mut follower = call(Fickle(0, Arc::clone(&fickle)));
        leader.pending();
        follower.pending();
        fickle.0.store(panics, SeqCst);
        fickle.1.store(1, SeqCst);
        // The table grows, shrinks, and the first flight lands in it.
        let idle = |key| Task::new(group.run(Fickle(key, Arc::default()), std::future::pending));
        let mut others: Vec<_> = (1..400).map(idle).collect();
        others.iter_mut().for_each(Task::pending);
        others.truncate(3);
        gate.open(1);
        assert_eq!(leader.ready().unwrap().value, "a result");
        assert_eq!(follower.ready().unwrap().value, "a result");
        drop(others);
        assert_eq!(group.in_flight(), 0);
        fickle.0.store(false, SeqCst);
        gate.open(1);
        let fresh = call(Fickle(0, fickle)).ready().unwrap();
        assert_eq!(fresh.role, oneflight::Role::Leader);
    }
}

#[test]
fn a_follower_whose_closure_panics_as_it_is_dropped_leaves_his_place() {
    for by_ref in [false, true] {
        let (group, gate) = (Group::<String, u8>::new(), Gate::new());
        let work = || {
            let gate = gate.clone();
            move || async move {
                gate.pass().await;
                1
            }
        };
        let mut leader = Task::new(group.run("key".to_owned(), work()));
        leader.pending();
        let bomb = Bomb(true);
        let never = move || {
            let _bomb = &bomb;
            std::future::ready(0)
        };
        let polled = catch_unwind(AssertUnwindSafe(|| match by_ref {
            true => Task::new(group.run_by_ref("key", never)).poll(),
            false => Task::new(group.run("key".to_owned(), never)).poll(),
        }));
        assert!(polled.is_err());
        leader.drop();
        assert_eq!(group.in_flight(), 0, "a place was left over");
    }
}

#[test]
fn a_follower_whose_closure_panicked_as_it_was_dropped_is_still_one() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let passed = gate.clone();
    let mut leader = Task::new(group.run(1, || async move {
        passed.pass().await;
        1
    }));
    leader.pending();
    let bomb = Bomb(true);
    let mut follower = Task::new(group.run(1, move || {
        let _bomb = &bomb;
        std::future::ready(0)
    }));
    assert!(catch_unwind(AssertUnwindSafe(|| follower.poll())).is_err());
    gate.open(1);
    leader.ready().unwrap();
    let outcome = follower.ready().unwrap();
    assert_eq!((outcome.value, outcome.role), (1, Role::Follower));
}

#[test]
fn work_and_value_whose_destructors_both_panic() {
    struct Work(#[allow(dead_code)] Bomb, Option<Bomb>);
    #[derive(Clone)]
    struct Value(#[allow(dead_code)] Arc<Bomb>);
    impl Future for Work {
        type Output = Value;
        fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Value> {
            match self.1.take() {
                Some(bomb) => Poll::Ready(Value(Arc::new(bomb))),
                None => panic!("first"),
            }
        }
    }
    let group: Group<u8, Value> = Group::new();
    let value_too = Task::new(group.run(1, || Work(Bomb(true), Some(Bomb(true))))).ready();
    assert_eq!(message(value_too.map(drop_silently)), "boom");
    let work_first = Task::new(group.run(1, || Work(Bomb(true), None))).ready();
    assert_eq!(
        message(work_first.map(drop_silently)),
        "first",
        "the first panic is what is told"
    );
    assert_eq!(group.in_flight(), 0);
}

fn drop_silently<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

#[test]
fn a_panicking_waker_keeps_nobody_else_from_being_woken() {
    for clone in [false, true] {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let work = || {
            let gate = gate.clone();
            move || async move {
                gate.pass().await;
                1
            }
        };
        let mut leader = Task::new(group.run(1, work()));
        leader.pending();
        let waker = bad_waker(clone);
        let mut bad = Box::pin(group.run(1, work()));
        let polled = catch_unwind(AssertUnwindSafe(|| bad.as_mut().poll(&mut Context::from_waker(&waker))));
        assert_eq!(polled.is_err(), clone);
        let mut good = Task::new(group.run(1, work()));
        good.pending();
        gate.open(1);
        assert_eq!(leader.ready().unwrap().value, 1);
        assert!(good.wakes() > 0, "he was not woken");
        assert_eq!(good.ready().unwrap().value, 1);
        drop(bad);
        assert_eq!(group.in_flight(), 0);
    }
}

#[test]
fn a_leader_whose_waker_panics_in_clone_gives_the_work_up() {
    let (group, gate, dropped) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
    let guard = CountsDrop(dropped.clone());
    let gate_of_work = gate.clone();
    let mut pending = true;
    let mut leader = Box::pin(group.run(1, move || {
        let (gate, guard) = (gate_of_work, guard);
        // It does not touch the waker in its first poll, so only the group's own clone panics.
        async move {
            let _guard = guard;
            std::future::poll_fn(|_| {
                if std::mem::take(&mut pending) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            gate.pass().await;
            1
        }
    }));
    let waker = bad_waker(true);
    let polled = catch_unwind(AssertUnwindSafe(|| {
        leader.as_mut().poll(&mut Context::from_waker(&waker))
    }));
    assert!(polled.is_err());
    // The right to poll was given back: a follower goes on.
    let mut follower = Task::new(group.run(1, || async { 0 }));
    follower.pending();
    gate.open(1);
    assert_eq!(follower.ready().unwrap().value, 1);
    drop(leader);
    assert_eq!((group.in_flight(), dropped.get()), (0, 1));
}

#[tokio::test]
async fn spawned_work_that_panics_as_it_is_made_leaves_nothing_behind() {
    let (group, key) = (Group::<Arc<str>, u8>::new(), Arc::<str>::from("key"));
    let unmade = || -> std::future::Ready<u8> { panic!("never made") };
    let call = group.run(Arc::clone(&key), unmade).drive(oneflight::Drive::Spawned);
    assert_eq!(message(Task::new(call).ready()), "never made");
    assert_eq!((group.in_flight(), Arc::strong_count(&key)), (0, 1));
}

/// The guard of the runtime that the work is polled inside panics as it is dropped, when the work has left another one there.
#[test]
fn work_that_leaks_a_guard_of_its_tasks_runtime_lands() {
    for drains in [false, true] {
        // What it leaks stays with the thread.
        let polls = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let group: Group<u8, String> = Group::builder()
                .drive(Drive::Spawned)
                .runtime(runtime.handle().clone())
                .build();
            let mut leader = Task::new(group.run(1, || async {
                // What is found from here is no leak to LeakSanitizer.
                static LEAKED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
                let handle: &'static Handle = Box::leak(Box::new(Handle::current()));
                let guard = Box::into_raw(Box::new(handle.enter()));
                let leaked = [
                    std::ptr::from_ref(handle).expose_provenance(),
                    guard.expose_provenance(),
                ];
                LEAKED.lock().unwrap().extend(leaked);
                "done".to_owned()
            }));
            // The task has its chance first.
            leader.pending();
            if drains {
                leader.drop();
                let mut drain = Task::new(group.drain());
                drain.pending();
                drain.ready();
            } else {
                assert_eq!(leader.ready().unwrap().value, "done");
            }
            assert!(!group.abort(&1), "the flight has not landed");
            assert_eq!(group.in_flight(), 0);
            drop(runtime);
        });
        polls.join().unwrap();
    }
}
