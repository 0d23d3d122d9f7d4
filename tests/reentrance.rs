//! Promise 6: waiting in a circle is an error, not a hang.

mod common;

use common::{Gate, Task};
use oneflight::{FlightError, Group, Role};
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
            // Whoever closed the circle is told; the other one gets his answer.
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
