//! Promise 7: bounded, closed and drained.

use crate::common::{Counter, Gate, Task};
use oneflight::{Drive, FlightError, Group, Limit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::pending;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Barrier};
use std::task::Context;
use std::thread::available_parallelism;

fn gated(gate: &Gate) -> impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = u8> + Send>> + use<> {
    let gate = gate.clone();
    move || {
        Box::pin(async move {
            gate.pass().await;
            1
        })
    }
}

#[test]
fn one_flight_too_many_is_refused_at_once() {
    let (group, gate) = (Group::<u8, u8>::builder().max_flights(2).build(), Gate::new());
    let mut calls: Vec<_> = (0..2).map(|key| Task::new(group.run(key, gated(&gate)))).collect();
    calls.iter_mut().for_each(Task::pending);
    let refused = Task::new(group.run(2, gated(&gate))).ready().unwrap_err();
    assert_eq!(refused, FlightError::Overloaded(Limit::Flights(2)));
    // To join is not to begin.
    let mut follower = Task::new(group.run(1, gated(&gate)));
    follower.pending();
    gate.open(1);
    assert_eq!(calls[0].ready().unwrap().value, 1);
    // One has landed; one is forgotten, which does not make it less of a flight.
    assert!(group.forget(&1));
    let mut more: Vec<_> = (2..5).map(|key| Task::new(group.run(key, gated(&gate)))).collect();
    more[0].pending();
    let refused = more[1].ready().unwrap_err();
    assert_eq!(refused, FlightError::Overloaded(Limit::Flights(2)));
    gate.open(1);
    let landed = [calls[1].poll(), more[0].poll()]
        .iter()
        .filter(|polled| polled.is_ready())
        .count();
    assert_eq!(landed, 1, "one pass");
    more[2].pending();
    let refused = Task::new(group.run(5, gated(&gate))).ready().unwrap_err();
    assert_eq!(refused, FlightError::Overloaded(Limit::Flights(2)));
    assert_eq!(group.stats().refused, 3);
    drop((calls, follower));
}

#[test]
fn one_caller_too_many_is_refused_at_once() {
    let (group, gate) = (Group::<u8, u8>::builder().max_callers(3).build(), Gate::new());
    let mut calls: Vec<_> = (0..3).map(|_| Task::new(group.run(1, gated(&gate)))).collect();
    calls.iter_mut().for_each(Task::pending);
    let refused = Task::new(group.run(1, gated(&gate))).ready().unwrap_err();
    assert_eq!(refused, FlightError::Overloaded(Limit::Callers(3)));
    calls.pop();
    let mut place = Task::new(group.run(1, gated(&gate)));
    place.pending();
    gate.open(1);
    for mut call in calls {
        assert_eq!(call.ready().unwrap().value, 1);
    }
    assert_eq!(place.ready().unwrap().value, 1);
}

#[test]
fn a_flight_has_one_caller_at_least_and_as_many_as_are_documented_at_most() {
    for (asked, limit) in [(0, 1), (1, 1), (7, 7), (u32::MAX, 2_097_150)] {
        let group: Group<u8, u8> = Group::builder().max_callers(asked).build();
        let shown = format!("{group:?}");
        assert!(shown.contains(&format!("max_callers: {limit},")), "{shown}");
    }
}

#[test]
fn a_closed_group_begins_nothing_and_finishes_what_flies() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut call = Task::new(group.run(1, gated(&gate)));
    call.pending();
    assert!(!group.is_closed());
    group.close();
    assert!(group.is_closed());
    let refused = Task::new(group.run(2, gated(&gate))).ready().unwrap_err();
    assert_eq!(refused, FlightError::Closed);
    let mut follower = Task::new(group.run(1, gated(&gate)));
    follower.pending();
    let (mut one, mut two, mut gone) = (
        Task::new(group.drain()),
        Task::new(group.drain()),
        Task::new(group.drain()),
    );
    one.pending();
    two.pending();
    gone.pending();
    gone.drop();
    gate.open(1);
    call.ready().unwrap();
    assert!(one.wakes() > 0 && two.wakes() > 0, "the drain was not told");
    one.ready();
    two.ready();
    follower.ready().unwrap();
}

#[test]
fn a_drain_waits_for_forgotten_flights() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut call = Task::new(group.run(1, gated(&gate)));
    call.pending();
    group.forget(&1);
    let mut drain = Task::new(group.drain());
    drain.pending();
    gate.open(1);
    call.ready().unwrap();
    assert!(drain.wakes() > 0);
    drain.ready();
}

#[test]
fn a_drain_is_woken_by_the_last_flight_only() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut calls: Vec<_> = (0..3).map(|key| Task::new(group.run(key, gated(&gate)))).collect();
    calls.iter_mut().for_each(Task::pending);
    let mut drain = Task::new(group.drain());
    drain.pending();
    gate.open(3);
    for (call, wakes) in calls.iter_mut().zip([0, 0, 1]) {
        call.ready().unwrap();
        assert_eq!(drain.wakes(), wakes);
    }
    drain.ready();
}

#[test]
fn a_drain_that_is_dropped_keeps_no_waker() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut call = Task::new(group.run(1, gated(&gate)));
    call.pending();
    let (counter, waker) = Counter::new();
    let mut drain = Box::pin(group.drain());
    assert!(drain.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop((drain, waker));
    assert_eq!(Arc::strong_count(&counter), 1);
}

#[test]
fn a_group_at_rest_is_drained_at_once() {
    Task::new(Group::<u8, u8>::new().drain()).ready();
}

#[test]
fn aborted_flights_tell_their_callers_and_free_the_key() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    assert!(!group.abort(&1));
    let mut calls: Vec<_> = (0..3).map(|_| Task::new(group.run(1, gated(&gate)))).collect();
    calls.iter_mut().for_each(Task::pending);
    assert!(group.abort(&1));
    assert_eq!(group.in_flight(), 0);
    for mut call in calls {
        assert!(call.wakes() > 0);
        assert_eq!(call.ready().unwrap_err(), FlightError::Aborted);
    }
    assert_eq!(group.stats().aborted, 1);
}

#[test]
fn work_that_aborts_itself_is_dropped_when_its_poll_ends() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let inner = group.clone();
    let mut call = Task::new(group.run(1, move || async move {
        assert!(inner.abort(&1));
        gate.pass().await;
        unreachable!("aborted")
    }));
    assert_eq!(call.ready().unwrap_err(), FlightError::Aborted);
    // Work that is through with this very poll has its result.
    let inner = group.clone();
    let outcome = Task::new(group.run(1, move || async move {
        assert!(inner.abort(&1));
        3
    }));
    let mut outcome = outcome;
    assert_eq!(outcome.ready().unwrap().value, 3);
}

/// The work is in a long poll when it is aborted; a call that comes after that is not the aborted one's.
#[test]
fn a_call_that_begins_after_an_abort_is_not_aborted_with_it() {
    let (group, entered, leave) = (Group::<u8, u8>::new(), Barrier::new(2), Barrier::new(2));
    let (entered, leave) = (Arc::new(entered), Arc::new(leave));
    std::thread::scope(|scope| {
        let aborted = scope.spawn(|| {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            Task::new(group.run(1, move || async move {
                entered.wait();
                leave.wait();
                std::future::pending().await
            }))
            .ready()
        });
        entered.wait();
        assert!(group.abort(&1));
        let mut fresh = Task::new(group.run(1, || async { 2 }));
        fresh.pending();
        let mut joins = Task::new(group.join(&1));
        joins.pending();
        leave.wait();
        assert_eq!(aborted.join().unwrap().unwrap_err(), FlightError::Aborted);
        assert!(joins.ready().is_none());
        let outcome = fresh.ready().unwrap();
        assert_eq!((outcome.value, outcome.role), (2, oneflight::Role::Leader));
    });
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.aborted), (2, 0, 1));
}

/// The same, and the work panics: that is its end for all, and no caller runs it again.
#[test]
fn a_call_that_came_too_late_for_an_abort_gets_the_panic_that_came_instead() {
    let (group, entered, leave) = (Group::<u8, u8>::new(), Barrier::new(2), Barrier::new(2));
    let (entered, leave) = (Arc::new(entered), Arc::new(leave));
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            Task::new(group.run(1, move || async move {
                entered.wait();
                leave.wait();
                panic!("out of tea")
            }))
            .ready()
        });
        entered.wait();
        assert!(group.abort(&1));
        let mut late = Task::new(group.run(1, || async { 2 }));
        late.pending();
        leave.wait();
        for ended in [leader.join().unwrap(), late.ready()] {
            assert!(matches!(ended, Err(FlightError::Panicked(_))), "{ended:?}");
        }
    });
    assert_eq!(group.stats().led, 1);
}

/// An abort comes as the work is polled for the last time, and after that another call: it gets the result after all, and
/// with that it is over.
#[test]
fn a_call_that_came_too_late_for_an_abort_is_over_when_it_has_its_result() {
    let (group, entered, leave) = (Group::<u8, u8>::new(), Barrier::new(2), Barrier::new(2));
    let (entered, leave) = (Arc::new(entered), Arc::new(leave));
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            let work = move || async move {
                entered.wait();
                leave.wait();
                7
            };
            Task::new(group.run(1, work)).ready().unwrap()
        });
        entered.wait();
        group.abort(&1);
        let begun = Arc::new(());
        let mut late = Task::new({
            let begun = Arc::clone(&begun);
            group.run(1, move || async move {
                drop(begun);
                unreachable!("the call has its result")
            })
        });
        late.pending();
        leave.wait();
        assert_eq!(leader.join().unwrap().value, 7);
        assert_eq!(late.ready().unwrap().value, 7);
        assert_eq!(Arc::strong_count(&begun), 1, "the closure goes with the call");
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| late.poll()));
        assert!(again.is_err(), "polled after it was ready");
    });
    assert_eq!(group.stats().led, 1);
}

#[tokio::test]
async fn a_flight_can_be_joined_with_settings_that_only_a_leader_needs() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut leader = Task::new(group.run(1, gated(&gate)));
    leader.pending();
    let joined = std::thread::scope(|scope| {
        // Outside a runtime.
        let thread = scope.spawn(|| {
            let mut joins = Task::new(group.run(1, || async { 0 }).drive(Drive::Spawned));
            joins.pending();
            gate.open(1);
            joins.ready()
        });
        thread.join().unwrap()
    });
    assert_eq!(joined.unwrap().value, 1);
    assert_eq!(leader.ready().unwrap().value, 1);
}

#[test]
fn spawned_work_without_a_runtime_is_an_error_before_anything_runs() {
    let group: Group<u8, u8> = Group::new();
    let never = || -> std::future::Ready<u8> { unreachable!("nothing may run") };
    let refused = Task::new(group.run(1, never).drive(Drive::Spawned))
        .ready()
        .unwrap_err();
    assert_eq!(refused, FlightError::NoRuntime);
    assert_eq!(group.in_flight(), 0);
}

#[test]
fn errors_say_what_to_do() {
    for (error, word) in [
        (FlightError::Reentrant, "another key"),
        (FlightError::Overloaded(Limit::Flights(7)), "7 flights"),
        (FlightError::Overloaded(Limit::Callers(9)), "9 callers"),
        (FlightError::Closed, "closed"),
        (FlightError::Conflict, "new key"),
        (FlightError::Aborted, "aborted"),
        (FlightError::NoRuntime, "handle"),
    ] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

std::thread_local! {
    /// What this thread has allocated: how often, and how many bytes more than it has freed.
    static ALLOCATED: Cell<(usize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, which keeps count.
struct Counting;

#[allow(unsafe_code)]
// SAFETY: all is passed on; what is counted allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (times, bytes) = ALLOCATED.get();
        ALLOCATED.set((times + 1, bytes + layout.size() as isize));
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let (times, bytes) = ALLOCATED.get();
        ALLOCATED.set((times, bytes - layout.size() as isize));
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `act` allocates, and how many bytes more than it frees.
fn allocated<R>(act: impl FnOnce() -> R) -> (usize, isize, R) {
    let before = ALLOCATED.get();
    let result = act();
    let after = ALLOCATED.get();
    (after.0 - before.0, after.1 - before.1, result)
}

#[test]
fn a_burst_of_flights_leaves_no_memory_behind() {
    // With hashes that are the same each time.
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let group: Group<u32, u8, _> = Group::builder().hasher(hasher).shards(1).build();
    let calls = |keys: std::ops::Range<u32>| -> Vec<_> { keys.map(|key| Task::new(group.run(key, pending))).collect() };
    let (_, left, ()) = allocated(|| {
        let (mut burst, mut more) = (calls(0..1_000), calls(1_000..1_060));
        burst.iter_mut().for_each(Task::pending);
        // While an eighth of the room is in use, nothing is done.
        let (times, ..) = allocated(|| burst.truncate(240));
        assert_eq!(times, 0);
        // Then the table is made smaller, and has room for some more even so.
        let (times, ..) = allocated(|| burst.truncate(180));
        assert_eq!(times, 1);
        let (times, ..) = allocated(|| more.iter_mut().for_each(Task::pending));
        assert_eq!(times, 60, "each of them is a flight");
    });
    assert!(left < 1_024, "{left} bytes are left");
    // A few flights, one after the other, need no new table each.
    let mut few = calls(0..10);
    let (times, ..) = allocated(|| {
        for call in &mut few {
            call.pending();
            call.drop();
        }
    });
    assert_eq!(times, 10);
}

#[test]
fn a_group_has_the_shards_that_it_is_told_and_four_for_each_processor_otherwise() {
    let size = |shards: Option<usize>| {
        let builder = Group::<u8, u8>::builder();
        let (_, bytes, _group) = allocated(|| match shards {
            Some(shards) => builder.shards(shards).build(),
            None => builder.build(),
        });
        bytes
    };
    let one = size(Some(1));
    let shard = size(Some(2)) - one;
    assert!(shard > 0);
    for (asked, shards) in [(0, 1), (3, 4), (4, 4), (100, 128), (usize::MAX, 65_536)] {
        assert_eq!(size(Some(asked)), one + (shards - 1) * shard, "{asked}");
    }
    let processors = available_parallelism().map_or(1, std::num::NonZero::get);
    assert_eq!(size(None), size(Some(4 * processors)));
}
