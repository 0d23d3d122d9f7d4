//! Promise 7: bounded, closed and drained.

mod common;

use common::{Gate, Task};
use oneflight::{Drive, FlightError, Group, Limit};

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
    // One has landed, and one is forgotten: two places.
    assert!(group.forget(&1));
    let mut more: Vec<_> = (2..5).map(|key| Task::new(group.run(key, gated(&gate)))).collect();
    more[0].pending();
    more[1].pending();
    let refused = more[2].ready().unwrap_err();
    assert_eq!(refused, FlightError::Overloaded(Limit::Flights(2)));
    // A flight that was forgotten counts no more as it lands.
    gate.open(1);
    assert_eq!(calls[1].ready().unwrap().value, 1);
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
fn a_closed_group_begins_nothing_and_finishes_what_flies() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut call = Task::new(group.run(1, gated(&gate)));
    call.pending();
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
