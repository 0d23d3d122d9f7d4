//! Promise 6: waiting in a circle is an error, not a hang.

use crate::common::{Gate, Task};
use oneflight::{Drive, FlightError, Group, OnAbandon, Role};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

async fn soon<F: Future>(future: F) -> F::Output {
    let limit = tokio::time::timeout(Duration::from_secs(5), future).await;
    limit.expect("it waits for itself")
}

#[tokio::test]
async fn work_that_asks_for_its_own_key() {
    let group: Group<u8, Result<u8, FlightError>> = Group::new();
    let inner = group.clone();
    let outcome = soon(group.run(1, move || async move {
        let again = inner.run(1, || async { unreachable!("it is in flight") }).await;
        again.and_then(|outcome| outcome.value)
    }));
    assert_eq!(outcome.await.unwrap().value, Err(FlightError::Reentrant));
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.refused), (1, 0, 1));
    assert_eq!(group.in_flight(), 0);
}

#[tokio::test]
async fn a_closure_that_polls_a_call_for_its_own_key() {
    let group: Group<u8, bool> = Group::new();
    let inner = group.clone();
    let outcome = soon(group.run(1, move || {
        let mut again = Task::new(async move { inner.run(1, || async { true }).await });
        let refused = matches!(again.poll(), std::task::Poll::Ready(Err(FlightError::Reentrant)));
        async move { refused }
    }));
    assert!(outcome.await.unwrap().value);
}

#[tokio::test]
async fn work_that_joins_its_own_key() {
    let group: Group<u8, bool> = Group::new();
    let inner = group.clone();
    let outcome = soon(group.run(1, move || async move {
        matches!(inner.join(&1).await, Some(Err(FlightError::Reentrant)))
    }));
    assert!(outcome.await.unwrap().value);
}

#[tokio::test]
async fn through_a_flight_that_it_leads() {
    let group: Group<u8, Result<u8, FlightError>> = Group::new();
    let (middle, inner) = (group.clone(), group.clone());
    let outcome = soon(group.run(1, move || async move {
        let outcome = middle.run(2, move || async move {
            let again = inner.run(1, || async { Ok(0) }).await;
            again.and_then(|outcome| outcome.value)
        });
        outcome.await.and_then(|outcome| outcome.value)
    }));
    assert_eq!(outcome.await.unwrap().value, Err(FlightError::Reentrant));
    assert_eq!(group.in_flight(), 0);
}

/// The two flights are led by different tasks, so neither is on the other's stack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_flight_that_another_task_leads() {
    for _ in 0..200 {
        let group: Group<u8, Result<u8, FlightError>> = Group::new();
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(2));
        let tasks: Vec<_> = [(1, 2), (2, 1)]
            .into_iter()
            .map(|(own, other)| {
                let (group, barrier) = (group.clone(), barrier.clone());
                tokio::spawn(async move {
                    let inner = group.clone();
                    let outcome = group.run(own, move || async move {
                        barrier.wait().await;
                        let outcome = inner.run(other, || async { Ok(0) }).await;
                        outcome.and_then(|outcome| outcome.value)
                    });
                    outcome.await.unwrap().value
                })
            })
            .collect();
        let mut circles = 0;
        for task in tasks {
            // The caller that closed the circle is told; the other one gets its answer.
            circles += usize::from(soon(task).await.unwrap() == Err(FlightError::Reentrant));
        }
        assert!(circles >= 1);
        assert_eq!(group.in_flight(), 0);
    }
}

#[tokio::test]
async fn through_three_flights_and_two_groups() {
    let a: Group<u8, Result<u8, FlightError>> = Group::new();
    let b: Group<u8, Result<u8, FlightError>> = Group::new();
    let (a1, b1, b2) = (a.clone(), b.clone(), b.clone());
    let outcome = soon(a.run(1, move || async move {
        let outcome = b1.run(1, move || async move {
            let outcome = b2.run(2, move || async move {
                let again = a1.run(1, || async { Ok(0) }).await;
                again.and_then(|outcome| outcome.value)
            });
            outcome.await.and_then(|outcome| outcome.value)
        });
        outcome.await.and_then(|outcome| outcome.value)
    }));
    assert_eq!(outcome.await.unwrap().value, Err(FlightError::Reentrant));
}

#[tokio::test]
async fn waiting_for_others_is_no_circle() {
    let group: Group<u8, u8> = Group::new();
    let inner = group.clone();
    // A diamond: 1 waits for 2 and 3, and both wait for 4.
    let outcome = soon(group.run(1, move || async move {
        let leg = |own: u8| {
            let (outer, inner) = (inner.clone(), inner.clone());
            async move {
                let outcome = outer.run(own, move || async move {
                    let outcome = inner.run(4, || async {
                        tokio::task::yield_now().await;
                        4
                    });
                    outcome.await.unwrap().value + own
                });
                outcome.await.unwrap().value
            }
        };
        let (two, three) = tokio::join!(leg(2), leg(3));
        two + three
    }));
    assert_eq!(outcome.await.unwrap().value, 4 + 2 + 4 + 3);
    assert_eq!(group.stats().refused, 0);
    assert_eq!(group.stats().led, 4);
}

#[tokio::test]
async fn an_edge_goes_with_the_call_that_made_it() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let mut other = Task::new(group.run(2, {
        let (gate, inner) = (gate.clone(), group.clone());
        move || async move {
            gate.pass().await;
            // 1 has stopped waiting for us by now, so this is no circle.
            inner.run(1, || async { 9 }).await.unwrap().value
        }
    }));
    other.pending();
    let (inner, finish) = (group.clone(), Gate::new());
    let mut one = Task::new(group.run(1, {
        let finish = finish.clone();
        move || async move {
            let mut impatient = Box::pin(inner.run(2, || async { 0 }));
            assert!(futures::poll!(&mut impatient).is_pending());
            drop(impatient);
            finish.pass().await;
            5
        }
    }));
    one.pending();
    gate.open(1);
    other.pending();
    finish.open(1);
    assert_eq!(one.ready().unwrap().value, 5);
    let outcome = other.ready().unwrap();
    assert_eq!((outcome.value, outcome.role), (5, Role::Leader));
}

type Call = Pin<Box<dyn Future<Output = Result<u8, FlightError>> + Send>>;

/// A call for a key, whose work asks for another key and gives what it is answered.
fn asks_for(group: &Group<u8, Result<u8, FlightError>>, key: u8, other: u8) -> Call {
    let (outer, inner) = (group.clone(), group.clone());
    Box::pin(async move {
        let work = move || async move {
            // It asks at its second poll: by then its call may be awaited elsewhere.
            tokio::task::yield_now().await;
            let outcome = inner.run(other, move || async move { Ok(other) }).await;
            outcome.and_then(|outcome| outcome.value)
        };
        outer.run(key, work).await.and_then(|outcome| outcome.value)
    })
}

#[tokio::test]
async fn a_call_that_the_work_gave_up_to_a_task_is_not_awaited_by_the_work() {
    let group: Group<u8, Result<u8, FlightError>> = Group::new();
    let outer = group.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let outcome = soon(outer.run(1, move || async move {
        let mut inner = asks_for(&group, 2, 1);
        assert!(futures::poll!(&mut inner).is_pending());
        // From here on the task waits for it, and this work for nothing.
        let given_up = tokio::spawn(inner);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        tell.send(given_up).unwrap();
        Ok(5)
    }));
    assert_eq!(outcome.await.unwrap().value, Ok(5));
    assert_eq!(soon(told.await.unwrap()).await.unwrap(), Ok(5), "there was no circle");
    assert_eq!(outer.stats().refused, 0);
}

#[tokio::test]
async fn a_call_that_was_begun_outside_closes_a_circle_when_the_work_awaits_it() {
    for (drive, on_abandon) in [
        (Drive::InPlace, OnAbandon::Finish),
        (Drive::InPlace, OnAbandon::Cancel),
        (Drive::Spawned, OnAbandon::Finish),
    ] {
        let group: Group<u8, Result<u8, FlightError>> = Group::builder().drive(drive).on_abandon(on_abandon).build();
        let begun: Arc<Mutex<Option<Call>>> = Arc::default();
        let mut outside = asks_for(&group, 2, 1);
        let awaited = Arc::clone(&begun);
        let mut outer = Box::pin(group.run(1, move || async move {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let inner = awaited.lock().unwrap().take().unwrap();
            inner.await
        }));
        assert!(futures::poll!(&mut outer).is_pending());
        // 2 waits for 1, and its caller is not in any work.
        while group.stats().joined == 0 {
            assert!(futures::poll!(&mut outside).is_pending());
            tokio::task::yield_now().await;
        }
        *begun.lock().unwrap() = Some(outside);
        let outcome = soon(outer).await.unwrap();
        assert_eq!(outcome.value, Err(FlightError::Reentrant), "{drive:?}");
        soon(group.drain()).await;
        let stats = group.stats();
        // A call that has led or joined was not refused.
        assert_eq!((stats.led, stats.joined, stats.refused), (2, 1, 0), "{drive:?}");
    }
}

/// The same through `join`.
#[tokio::test]
async fn a_join_that_was_begun_outside_closes_a_circle_when_the_work_awaits_it() {
    let group: Group<u8, Result<u8, FlightError>> = Group::new();
    let mut two = Box::pin(group.run(2, {
        let inner = group.clone();
        move || async move {
            tokio::task::yield_now().await;
            let outcome = inner.run(1, || async { unreachable!("it is in flight") }).await;
            outcome.and_then(|outcome| outcome.value)
        }
    }));
    assert!(futures::poll!(&mut two).is_pending());
    let (joins, begun, gate) = (group.clone(), Arc::new(Mutex::new(None::<Call>)), Gate::new());
    let (awaited, opened) = (Arc::clone(&begun), gate.clone());
    let mut outer = Box::pin(group.run(1, move || async move {
        opened.pass().await;
        let inner = awaited.lock().unwrap().take().unwrap();
        inner.await
    }));
    assert!(futures::poll!(&mut outer).is_pending());
    let mut outside: Call = Box::pin(async move { joins.join(&2).await.unwrap().and_then(|outcome| outcome.value) });
    assert!(futures::poll!(&mut outside).is_pending());
    while group.stats().joined < 2 {
        assert!(futures::poll!(&mut two).is_pending());
        tokio::task::yield_now().await;
    }
    *begun.lock().unwrap() = Some(outside);
    gate.open(1);
    assert_eq!(soon(outer).await.unwrap().value, Err(FlightError::Reentrant));
    assert_eq!(soon(two).await.unwrap().value, Err(FlightError::Reentrant));
}

/// A result that is there is no circle, even if the flight's work has left a call behind that is not polled.
#[test]
fn a_call_whose_flight_has_landed_is_answered_inside_the_work_that_it_asked_for() {
    let (group, one_goes, two_goes) = (Group::<u8, Result<u8, FlightError>>::new(), Gate::new(), Gate::new());
    let (outside, left) = (Arc::new(Mutex::new(None::<Call>)), Arc::new(Mutex::new(None::<Call>)));
    let (awaited, opened) = (Arc::clone(&outside), one_goes.clone());
    let mut one = Task::new(group.run(1, move || async move {
        opened.pass().await;
        let call = awaited.lock().unwrap().take().unwrap();
        call.await
    }));
    one.pending();
    let (inner, leaves, opened) = (group.clone(), Arc::clone(&left), two_goes.clone());
    let mut two = Task::new(group.run(2, move || async move {
        let mut call: Call = Box::pin(async move { inner.run(1, || async { Ok(0) }).await.unwrap().value });
        assert!(futures::poll!(&mut call).is_pending());
        *leaves.lock().unwrap() = Some(call);
        opened.pass().await;
        Ok(2)
    }));
    two.pending();
    let follows = group.clone();
    let mut call: Call = Box::pin(async move { follows.run(2, || async { Ok(0) }).await.and_then(|two| two.value) });
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    two_goes.open(1);
    assert_eq!(two.ready().unwrap().value, Ok(2));
    *outside.lock().unwrap() = Some(call);
    one_goes.open(1);
    assert_eq!(one.ready().unwrap().value, Ok(2));
    drop(left);
}

const FLIGHTS: usize = 4;
const CALLS: usize = 6;

/// What is done to one of some calls: it is begun anew for a flight, or dropped, or polled, inside a flight's work or
/// outside of all.
#[derive(Clone, Debug)]
enum Step {
    Begin { call: usize, child: usize },
    Drop { call: usize },
    Poll { call: usize, parent: Option<usize> },
}

fn step() -> impl Strategy<Value = Step> {
    let call = 0..CALLS;
    prop_oneof![
        3 => (call.clone(), 0..FLIGHTS).prop_map(|(call, child)| Step::Begin { call, child }),
        1 => call.clone().prop_map(|call| Step::Drop { call }),
        6 => (call, prop::option::weighted(0.8, 0..FLIGHTS)).prop_map(|(call, parent)| Step::Poll { call, parent }),
    ]
}

/// A flight whose work never ends, and polls what it is given.
#[derive(Default)]
struct Inside {
    given: VecDeque<Call>,
    given_back: Option<(Call, Poll<Result<u8, FlightError>>)>,
    waker: Option<Waker>,
}

fn never_ends(group: &Group<u8, u8>, key: usize, inside: &Arc<Mutex<Inside>>) -> Call {
    let (group, inside) = (group.clone(), Arc::clone(inside));
    Box::pin(async move {
        let work = move || {
            poll_fn(move |cx| {
                inside.lock().unwrap().waker = Some(cx.waker().clone());
                let given = inside.lock().unwrap().given.pop_front();
                if let Some(mut call) = given {
                    let polled = call.as_mut().poll(cx);
                    inside.lock().unwrap().given_back = Some((call, polled));
                }
                Poll::Pending
            })
        };
        group.run(key as u8, work).await.map(|outcome| outcome.value)
    })
}

/// Whether `from` waits for `to`, by the calls that are awaited: `(parent, child)` of each.
fn waits_for(edges: &[Option<(usize, usize)>], from: usize, to: usize) -> bool {
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(&flight) = reached.get(next) {
        for &(parent, child) in edges.iter().flatten() {
            if parent == flight && !reached.contains(&child) {
                reached.push(child);
            }
        }
        next += 1;
    }
    reached.contains(&to)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each poll says which call waits for which: none is told of a circle that is none, and each that closes one is
    /// told.
    #[test]
    fn whichever_poll_closes_a_circle_is_told_and_no_other(steps in prop::collection::vec(step(), 1..60)) {
        let group: Group<u8, u8> = Group::builder().on_abandon(OnAbandon::Cancel).build();
        let insides: Vec<Arc<Mutex<Inside>>> = (0..FLIGHTS).map(|_| Arc::default()).collect();
        let mut leaders: Vec<_> = insides
            .iter()
            .enumerate()
            .map(|(key, inside)| Task::new(never_ends(&group, key, inside)))
            .collect();
        leaders.iter_mut().for_each(Task::pending);
        let mut calls: Vec<Option<(Call, usize)>> = (0..CALLS).map(|_| None).collect();
        let mut edges: Vec<Option<(usize, usize)>> = vec![None; CALLS];
        for step in steps {
            match step {
                Step::Begin { call, child } => {
                    let group = group.clone();
                    let begun = async move {
                        let run = group.run(child as u8, || async { unreachable!("it is in flight") });
                        run.await.map(|outcome| outcome.value)
                    };
                    calls[call] = Some((Box::pin(begun), child));
                    edges[call] = None;
                }
                Step::Drop { call } => {
                    calls[call] = None;
                    edges[call] = None;
                }
                Step::Poll { call, parent } => {
                    let Some((mut future, child)) = calls[call].take() else { continue };
                    edges[call] = None;
                    let circle = parent.is_some_and(|parent| waits_for(&edges, child, parent));
                    let polled = match parent {
                        None => future.as_mut().poll(&mut Context::from_waker(Waker::noop())),
                        Some(parent) => {
                            insides[parent].lock().unwrap().given.push_back(future);
                            // The work is woken, so that the caller that is polled polls it.
                            let waker = insides[parent].lock().unwrap().waker.clone();
                            waker.unwrap().wake();
                            leaders[parent].pending();
                            let back = insides[parent].lock().unwrap().given_back.take();
                            let (back, polled) = back.expect("the work was not polled");
                            future = back;
                            polled
                        }
                    };
                    match polled {
                        Poll::Pending => {
                            prop_assert!(!circle, "{child} waits for {parent:?} already, and that was not seen");
                            edges[call] = parent.map(|parent| (parent, child));
                            calls[call] = Some((future, child));
                        }
                        Poll::Ready(answer) => {
                            prop_assert_eq!(answer, Err(FlightError::Reentrant));
                            prop_assert!(circle, "{} does not wait for {:?}", child, parent);
                        }
                    }
                }
            }
        }
    }
}
