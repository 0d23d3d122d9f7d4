//! Promises 9 and 20: what is held while user code runs, what is cloned and when it is dropped; and what is told.

use crate::common::{CountsDrop, Gate, Tally, Task};
use oneflight::{FlightError, Group, Outcome, Role, TryError};
use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

struct Counted {
    clones: Tally,
    _drops: CountsDrop,
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.add();
        Self {
            clones: self.clones.clone(),
            _drops: CountsDrop(self._drops.0.clone()),
        }
    }
}

#[test]
fn a_result_nobody_shares_is_moved_and_a_follower_costs_one_clone() {
    for followers in [0, 1, 2, 50] {
        let (group, gate) = (Group::<u8, Counted>::new(), Gate::new());
        let (clones, drops) = (Tally::default(), Tally::default());
        let mut calls: Vec<_> = (0..=followers)
            .map(|_| {
                let (gate, clones, drops) = (gate.clone(), clones.clone(), drops.clone());
                Task::new(group.run(1, move || async move {
                    gate.pass().await;
                    Counted {
                        clones,
                        _drops: CountsDrop(drops),
                    }
                }))
            })
            .collect();
        calls.iter_mut().for_each(Task::pending);
        gate.open(1);
        let results: Vec<_> = calls.iter_mut().map(|call| call.ready().unwrap().value).collect();
        assert_eq!(clones.get(), followers);
        assert_eq!(drops.get(), 0);
        drop(results);
        assert_eq!(drops.get(), followers + 1);
    }
}

#[tokio::test]
async fn a_lone_caller_of_spawned_work_gets_it_uncloned() {
    let group: Group<u8, Counted> = Group::new();
    let (clones, drops) = (Tally::default(), Tally::default());
    let value = Counted {
        clones: clones.clone(),
        _drops: CountsDrop(drops),
    };
    let outcome = group
        .run(1, || async move { value })
        .drive(oneflight::Drive::Spawned)
        .await;
    assert!(outcome.is_ok());
    assert_eq!(clones.get(), 0);
}

#[test]
fn the_work_is_dropped_before_its_result_is_published() {
    let (group, gate, dropped) = (Group::<u8, u8>::new(), Gate::new(), Tally::default());
    let guard = CountsDrop(dropped.clone());
    let mut leader = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            let _guard = guard;
            gate.pass().await;
            1
        }
    }));
    leader.pending();
    let mut follower = Task::new(group.run(1, || async { 0 }));
    follower.pending();
    gate.open(1);
    leader.ready().unwrap();
    assert_eq!(dropped.get(), 1);
    follower.ready().unwrap();
}

/// Whatever the user's code does with the group while we run it: no lock of ours is held.
#[test]
fn user_code_may_use_the_group_wherever_it_runs() {
    struct Meddler(Group<u8, Meddler>);
    impl Meddler {
        fn meddle(&self) {
            self.0.forget(&1);
            self.0.abort(&1);
            let _ = (self.0.in_flight(), self.0.stats(), format!("{:?}", self.0));
        }
    }
    impl Clone for Meddler {
        fn clone(&self) -> Self {
            self.meddle();
            Self(self.0.clone())
        }
    }
    impl Drop for Meddler {
        fn drop(&mut self) {
            self.meddle();
        }
    }
    impl std::task::Wake for Meddler {
        fn wake(self: Arc<Self>) {
            self.meddle();
        }
    }
    let (group, gate) = (Group::<u8, Meddler>::new(), Gate::new());
    let waker = std::task::Waker::from(Arc::new(Meddler(group.clone())));
    let call = || {
        let (gate, held, made) = (gate.clone(), Meddler(group.clone()), group.clone());
        Box::pin(group.run(1, move || {
            held.meddle();
            async move {
                let _held = held;
                gate.pass().await;
                let _ = made.stats();
                Meddler(made)
            }
        }))
    };
    let mut cx = std::task::Context::from_waker(&waker);
    let (mut leader, mut follower, mut gone) = (call(), call(), call());
    for call in [&mut leader, &mut follower, &mut gone] {
        let _ = call.as_mut().poll(&mut cx);
    }
    drop(gone);
    gate.open(1);
    let _ = leader.as_mut().poll(&mut cx);
    let _ = follower.as_mut().poll(&mut cx);
    drop((leader, follower));
    drop(waker);
    assert_eq!(group.in_flight(), 0);
}

/// A borrowed key that looks at the group, from another thread, as it is made an owned one.
struct Lent(Group<Kept, u8>);

struct Kept(Lent);

impl ToOwned for Lent {
    type Owned = Kept;
    fn to_owned(&self) -> Kept {
        let (tell, told) = mpsc::channel();
        let group = self.0.clone();
        std::thread::spawn(move || tell.send(group.in_flight()));
        let flying = told.recv_timeout(Duration::from_secs(5));
        assert_eq!(flying, Ok(0), "a lock is held");
        Kept(Self(self.0.clone()))
    }
}

impl Borrow<Lent> for Kept {
    fn borrow(&self) -> &Lent {
        &self.0
    }
}

impl PartialEq for Lent {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Lent {}

impl Hash for Lent {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Kept {}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[test]
fn no_lock_is_held_while_a_borrowed_key_is_made_an_owned_one() {
    let group: Group<Kept, u8> = Group::new();
    let key = Lent(group.clone());
    let mut call = Task::new(group.run_by_ref(&key, || async { 1 }));
    assert_eq!(call.ready().unwrap().value, 1);
}

#[test]
fn an_error_reaches_everyone_as_the_same_arc() {
    let (group, gate) = (Group::<u8, Result<u8, Arc<String>>>::new(), Gate::new());
    let mut calls: Vec<_> = (0..3)
        .map(|_| {
            let gate = gate.clone();
            Task::new(group.try_run(1, move || async move {
                gate.pass().await;
                Err("connection lost".to_owned())
            }))
        })
        .collect();
    calls.iter_mut().for_each(Task::pending);
    gate.open(1);
    let errors: Vec<Arc<String>> = calls
        .iter_mut()
        .map(|call| match call.ready() {
            Err(TryError::Work(error)) => error,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
    let mut fine = Task::new(group.try_run(1, || async { Ok(3) }));
    assert_eq!(
        fine.ready().unwrap(),
        Outcome {
            value: 3,
            role: Role::Leader
        }
    );
}

#[test]
fn statistics_add_up_and_debug_shows_no_payload() {
    let (group, gate) = (Group::<String, String>::new(), Gate::new());
    let mut call = Task::new(group.run("secret key".to_owned(), {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            "secret value".to_owned()
        }
    }));
    call.pending();
    let shown = format!("{group:?}");
    assert!(shown.contains("in_flight: 1") && !shown.contains("secret"), "{shown}");
    gate.open(1);
    call.ready().unwrap();
    let stats = group.stats();
    assert_eq!(
        (stats.led, stats.joined, stats.handed_over, stats.taken_over),
        (1, 0, 0, 0)
    );
}

#[derive(Debug)]
struct NoAnswer(io::Error);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer")
    }
}

impl Error for NoAnswer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn an_error_of_try_run_says_what_the_work_or_the_flight_says() {
    let group: Group<u8, Result<u8, Arc<NoAnswer>>> = Group::new();
    let failing = || async { Err(NoAnswer(io::ErrorKind::TimedOut.into())) };
    let of_work = Task::new(group.try_run(1, failing)).ready().unwrap_err();
    assert_eq!(of_work.to_string(), "no answer");
    assert_eq!(of_work.source().unwrap().to_string(), "timed out");
    let (TryError::Work(error), TryError::Work(copy)) = (&of_work, &of_work.clone()) else {
        panic!("{of_work:?}");
    };
    assert!(Arc::ptr_eq(error, copy));
    group.close();
    let of_flight = Task::new(group.try_run(1, || async { Ok(1) })).ready().unwrap_err();
    assert!(matches!(of_flight.clone(), TryError::Flight(FlightError::Closed)));
    assert_eq!(of_flight.to_string(), FlightError::Closed.to_string());
    assert!(of_flight.source().is_none());
}
