//! Promises 9 and 18: what is held while user code runs, what is cloned and when it is dropped; and what is told.

mod common;

use common::{CountsDrop, Gate, Tally, Task};
use oneflight::{Group, Outcome, Role, TryError};
use std::sync::Arc;

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
