//! Flights that wait for each other in a long chain: key n's work asks for key n - 1. However long it is, no stack overflows,
//! whether the chain is made, woken, landed or dropped, from either end. (An overflow ends the process.)

use crate::common::{Gate, Task, run_all};
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use oneflight::{Drive, FlightError, Group, OnAbandon, Outcome};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::RuntimeFlavor;

const LONG: usize = 100_000;
/// Each call made by work looks through the flights that its flight waits for, so chains that grow at their upper end are shorter.
const SHORT: usize = 2_500;
/// A stand-in for a task asks to be polled twice first, and with it every caller that waits for the call.
const LEFT: usize = 800;

type Outcomes = Result<Outcome<usize>, FlightError>;

/// A call of `n`, whose work calls `n - 1`, and so on to the last, which waits for the gate.
fn call(group: Group<usize, usize>, gate: Gate, n: usize) -> BoxFuture<'static, Outcomes> {
    Box::pin(async move {
        let own = group.clone();
        let work = || async move {
            if n == 0 {
                gate.pass().await;
                return 0;
            }
            call(own, gate, n - 1).await.unwrap().value + 1
        };
        group.run(n, work).await
    })
}

#[derive(Clone, Copy, Debug)]
enum From {
    Above,
    Below,
}

impl From {
    fn keys(self) -> Box<dyn Iterator<Item = usize>> {
        match self {
            Self::Above => Box::new((0..LONG).rev()),
            Self::Below => Box::new(0..SHORT),
        }
    }
}

fn runtimes() -> [tokio::runtime::Runtime; 2] {
    [
        tokio::runtime::Builder::new_current_thread().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap(),
    ]
}

/// How long a chain is to be. For work that is spawned where tasks may not be polled, all that wait are woken for each
/// step, and there is a step for each flight.
fn length(drive: Drive, runtime: &tokio::runtime::Runtime) -> usize {
    match (drive, runtime.handle().runtime_flavor()) {
        (Drive::Spawned, RuntimeFlavor::CurrentThread) => SHORT,
        _ => LONG,
    }
}

/// One task for each call.
async fn tasks(group: &Group<usize, usize>, from: From) {
    let gate = Gate::new();
    let tasks: Vec<_> = from
        .keys()
        .map(|n| (n, tokio::spawn(call(group.clone(), gate.clone(), n))))
        .collect();
    // Each has been called by its task and, but for the last, by the work above it.
    while group.stats().led + group.stats().joined < 2 * tasks.len() as u64 - 1 {
        tokio::task::yield_now().await;
    }
    gate.open(1);
    for (n, task) in tasks {
        assert_eq!(task.await.unwrap().unwrap().value, n, "{from:?}");
    }
}

#[test]
fn one_task_for_each_call() {
    for runtime in runtimes() {
        for from in [From::Above, From::Below] {
            let group = Group::new();
            runtime.block_on(tasks(&group, from));
            assert_eq!(group.in_flight(), 0);
        }
    }
}

/// The calls have no other callers than the work above them.
#[test]
fn one_task_for_all_calls() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        for runtime in runtimes() {
            let (group, gate) = (Group::builder().drive(drive).build(), Gate::new());
            let flights = length(drive, &runtime);
            let outcome = runtime.block_on(async {
                let call = tokio::spawn(call(group.clone(), gate.clone(), flights - 1));
                while group.in_flight() < flights {
                    tokio::task::yield_now().await;
                }
                gate.open(1);
                call.await.unwrap().unwrap()
            });
            assert_eq!(outcome.value, flights - 1);
        }
    }
}

/// The same by the thread alone.
#[test]
fn one_call_without_a_runtime() {
    let (group, gate) = (Group::new(), Gate::new());
    let mut made = Task::new(call(group.clone(), gate.clone(), LONG - 1));
    made.pending();
    assert_eq!(group.in_flight(), LONG);
    assert_eq!(made.wakes(), 0, "there is nothing to do");
    gate.open(1);
    let outcome = run_all(vec![made]).remove(0);
    assert_eq!(outcome.unwrap().value, LONG - 1);
}

/// Each flight has a task, which does not come: the only caller that is polled stands in for all of them, one after the
/// other.
#[test]
fn a_chain_whose_tasks_are_left() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for begun in [false, true] {
        let (group, gate) = (
            Group::builder()
                .drive(Drive::Spawned)
                .runtime(runtime.handle().clone())
                .build(),
            Gate::new(),
        );
        let made = call(group.clone(), gate.clone(), LEFT - 1);
        if begun {
            let mut made = Task::new(call(group.clone(), gate.clone(), LEFT - 1));
            runtime.block_on(async {
                made.pending();
                while group.in_flight() < LEFT {
                    tokio::task::yield_now().await;
                }
            });
        }
        gate.open(1);
        let small = std::thread::Builder::new().stack_size(512 * 1024);
        let thread = small.spawn(move || block_on(made)).unwrap();
        assert_eq!(thread.join().unwrap().unwrap().value, LEFT - 1);
        assert_eq!(group.in_flight(), 0);
    }
}

type Answer = Result<usize, FlightError>;

/// A call of `n`, whose work calls the next one, and the last one's the first.
fn circle(group: Group<usize, Answer>, flights: usize, n: usize) -> BoxFuture<'static, Answer> {
    Box::pin(async move {
        let own = group.clone();
        let work = move || async move { circle(own, flights, (n + 1) % flights).await };
        group.run(n, work).await.and_then(|outcome| outcome.value)
    })
}

/// Which call waits for which is seen although the waiting calls do not poll the others.
#[test]
fn a_chain_that_is_a_circle() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        for runtime in runtimes() {
            let group = Group::builder().drive(drive).build();
            let flights = length(drive, &runtime);
            let outcome = runtime.block_on(async { tokio::spawn(circle(group, flights, 0)).await.unwrap() });
            assert_eq!(outcome, Err(FlightError::Reentrant), "{drive:?}");
        }
    }
    assert_eq!(block_on(circle(Group::new(), LONG, 0)), Err(FlightError::Reentrant));
}

/// The end of each flight wakes the next one.
#[test]
fn without_a_runtime() {
    let (group, gate) = (Group::new(), Gate::new());
    let mut calls: FuturesUnordered<_> = From::Below
        .keys()
        .map(|n| call(group.clone(), gate.clone(), n))
        .collect();
    block_on(async {
        let mut landed = 0;
        loop {
            match futures::poll!(calls.next()) {
                Poll::Ready(Some(outcome)) => {
                    outcome.unwrap();
                    landed += 1;
                }
                Poll::Ready(None) => return assert_eq!(landed, SHORT),
                Poll::Pending => gate.open(1),
            }
        }
    });
}

#[test]
fn a_chain_that_is_dropped() {
    let (group, gate) = (Group::builder().on_abandon(OnAbandon::Cancel).build(), Gate::new());
    let mut calls: Vec<_> = From::Below
        .keys()
        .map(|n| Task::new(call(group.clone(), gate.clone(), n)))
        .collect();
    calls.iter_mut().for_each(Task::pending);
    // The last one leaves each flight to the next one's work, so all the work goes with the last call.
    drop(calls);
    assert_eq!((group.in_flight(), group.stats().cancelled), (0, SHORT as u64));
}

#[test]
fn a_chain_whose_runtime_ends() {
    for runtime in runtimes() {
        let (group, gate) = (Group::new(), Gate::new());
        runtime.block_on(async {
            for n in From::Above.keys() {
                drop(tokio::spawn(call(group.clone(), gate.clone(), n)));
            }
            while group.in_flight() < LONG {
                tokio::task::yield_now().await;
            }
        });
        drop(runtime);
        assert_eq!(group.in_flight(), 0);
    }
}

/// What `act` returns on a thread of its own; a panic if that takes long.
fn on_another_thread<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || drop(tell.send(act())));
    told.recv_timeout(Duration::from_secs(60)).expect("it does not end")
}

/// Below the bound, work would be given a task there; each such task is dropped as it is spawned.
#[test]
fn a_chain_in_a_group_whose_runtime_has_ended() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let group = Group::builder().runtime(runtime.handle().clone()).build();
    drop(runtime);
    let gate = Gate::new();
    let mut made = Task::new(call(group.clone(), gate.clone(), SHORT - 1));
    let value = on_another_thread(move || {
        made.pending();
        gate.open(1);
        run_all(vec![made]).remove(0).unwrap().value
    });
    assert_eq!((value, group.in_flight()), (SHORT - 1, 0));
}
