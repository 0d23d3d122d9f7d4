//! Promise 1: of all callers whose key is in flight, exactly one work future is created and run.

use crate::common::{Gate, Tally, Task};
use futures::future::join_all;
use oneflight::group::RandomState;
use oneflight::{Group, Role};
use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::{Barrier, oneshot};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_callers_of_one_key_run_one_execution() {
    const CALLERS: usize = 10_000;
    let group: Group<String, usize> = Group::new();
    let (made, ran) = (Tally::default(), Tally::default());
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(std::sync::Mutex::new(Some(finished)));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (group, made, ran, finished) = (group.clone(), made.clone(), ran.clone(), Arc::clone(&finished));
            tokio::spawn(async move {
                let work = || {
                    made.add();
                    let finished = finished.lock().unwrap().take().expect("a second work was made");
                    async move {
                        ran.add();
                        finished.await.unwrap();
                        42
                    }
                };
                group.run("order".to_owned(), work).await.unwrap()
            })
        })
        .collect();
    while group.stats().joined < CALLERS as u64 - 1 {
        tokio::task::yield_now().await;
    }
    finish.send(()).unwrap();
    let outcomes: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert!(outcomes.iter().all(|outcome| outcome.value == 42));
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.role == Role::Leader).count(),
        1
    );
    assert_eq!((made.get(), ran.get()), (1, 1));
    assert_eq!(group.in_flight(), 0);
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined), (1, CALLERS as u64 - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distinct_keys_do_not_share() {
    let group: Group<u64, u64> = Group::new();
    let barrier = Arc::new(Barrier::new(100));
    let calls = (0..100).map(|key| {
        let barrier = Arc::clone(&barrier);
        let work = move || async move {
            barrier.wait().await;
            key
        };
        group.run(key, work)
    });
    for (key, outcome) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().value, key as u64);
    }
    assert_eq!(group.stats().led, 100);
}

#[test]
fn keys_have_hashes_of_their_own_and_groups_too() {
    let (this, other) = (RandomState::default(), RandomState::default());
    let hashes = |state: &RandomState| (0..1_000_u64).map(|key| state.hash_one(key)).collect::<HashSet<_>>();
    assert_eq!(hashes(&this).len(), 1_000);
    assert!(hashes(&this).is_disjoint(&hashes(&other)));
    assert_eq!(this.hash_one("key"), this.clone().hash_one("key"));
}

/// A hash that is the key, in these bits and no others.
#[derive(Default)]
struct Bits<const FROM: u32>(u64);

impl<const FROM: u32> Hasher for Bits<FROM> {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers here");
    }

    fn write_u8(&mut self, key: u8) {
        self.0 = u64::from(key) << FROM;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A key whose comparison, under the lock of its shard, lasts until it is told to end.
struct Slow(u8, Option<(mpsc::Sender<()>, Arc<std::sync::Barrier>)>);

impl Hash for Slow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.0);
    }
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        if let Some((begun, end)) = &self.1 {
            begun.send(()).unwrap();
            end.wait();
        }
        self.0 == other.0
    }
}

impl Eq for Slow {}

#[test]
fn keys_of_different_shards_do_not_wait_for_each_other() {
    // Wherever a hash has its bits, they decide upon the shard.
    others_get_through_beside_a_slow_one::<Bits<0>>();
    others_get_through_beside_a_slow_one::<Bits<32>>();
    others_get_through_beside_a_slow_one::<Bits<56>>();
}

fn others_get_through_beside_a_slow_one<H: Hasher + Default + Send + 'static>() {
    const OTHERS: u8 = 64;
    let group: Group<Slow, u8, _> = Group::builder()
        .hasher(BuildHasherDefault::<H>::default())
        .shards(8)
        .build();
    let gate = Gate::new();
    let passed = gate.clone();
    let mut leader = Task::new(group.run(Slow(0, None), || async move {
        passed.pass().await;
        7
    }));
    leader.pending();
    let (begun, begins) = mpsc::channel();
    let end = Arc::new(std::sync::Barrier::new(2));
    let (done, others) = mpsc::channel();
    std::thread::scope(|scope| {
        let (group, held) = (&group, Arc::clone(&end));
        let slow = scope.spawn(move || Task::new(group.run(Slow(0, Some((begun, held))), || async { 0 })).poll());
        begins.recv().unwrap();
        for key in 1..=OTHERS {
            let done = done.clone();
            scope.spawn(move || {
                let value = Task::new(group.run(Slow(key, None), || async move { key })).ready();
                done.send(value.unwrap().value).unwrap();
            });
        }
        // One in eight has the shard of the slow one, more or less.
        let free = (0..OTHERS * 3 / 4).all(|_| others.recv_timeout(Duration::from_secs(5)).is_ok());
        end.wait();
        assert!(free, "they wait for a lock");
        assert!(slow.join().unwrap().is_pending());
    });
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 7);
}

/// A hash that is the same for all keys.
#[derive(Default)]
struct Same;

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        7
    }
}

#[test]
fn keys_with_the_same_hash_are_told_apart() {
    let hasher = BuildHasherDefault::<Same>::default();
    let group: Group<String, u32, _> = Group::builder().hasher(hasher).build();
    let gate = Gate::new();
    let work = |value| {
        let passed = gate.clone();
        move || async move {
            passed.pass().await;
            value
        }
    };
    let mut own = Task::new(group.run("own".to_owned(), work(1)));
    own.pending();
    let mut borrowed = Task::new(group.run_by_ref("borrowed", work(2)));
    borrowed.pending();
    assert_eq!(group.in_flight(), 2);
    assert!(Task::new(group.join("neither")).ready().is_none());
    assert!(!group.forget("neither") && !group.abort("neither"));
    let mut joined = Task::new(group.join("borrowed"));
    joined.pending();
    assert!(group.forget("own"));
    gate.open(2);
    assert_eq!(own.ready().unwrap().value, 1);
    assert_eq!(borrowed.ready().unwrap().value, 2);
    assert_eq!(joined.ready().unwrap().unwrap().value, 2);
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let group: Group<&str, u32> = Group::new();
    let made = Tally::default();
    let call = group.run("key", || {
        made.add();
        async { 1 }
    });
    assert_eq!((made.get(), group.in_flight()), (0, 0));
    drop(call);
    assert_eq!((made.get(), group.stats().led), (0, 0));
}

#[test]
fn the_one_who_is_polled_first_leads_not_the_one_who_was_made_first() {
    let group: Group<&str, u32> = Group::new();
    let gate = Gate::new();
    let work = |value| {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            value
        }
    };
    let mut first = Task::new(group.run("key", work(1)));
    let mut second = Task::new(group.run("key", work(2)));
    second.pending();
    first.pending();
    gate.open(1);
    let (second, first) = (second.ready().unwrap(), first.ready().unwrap());
    assert_eq!((second.value, second.role), (2, Role::Leader));
    assert_eq!((first.value, first.role), (2, Role::Follower));
}

#[test]
fn a_borrowed_key_joins_and_is_owned_only_to_lead() {
    let group: Group<String, u32> = Group::new();
    let gate = Gate::new();
    let work = || {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            1
        }
    };
    let mut leader = Task::new(group.run_by_ref("key", work()));
    let mut follower = Task::new(group.run_by_ref("key", work()));
    let mut owner = Task::new(group.run("key".to_owned(), work()));
    leader.pending();
    follower.pending();
    owner.pending();
    gate.open(1);
    for task in [leader.ready(), follower.ready()] {
        assert_eq!(task.unwrap().value, 1);
    }
    assert_eq!(owner.ready().unwrap().role, Role::Follower);
    assert_eq!(group.stats().led, 1);
}

#[test]
fn join_shares_what_is_in_flight_and_begins_nothing() {
    let group: Group<String, u32> = Group::new();
    assert!(Task::new(group.join("key")).ready().is_none());
    let gate = Gate::new();
    let mut leader = Task::new(group.run("key".to_owned(), {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            7
        }
    }));
    leader.pending();
    let mut joined = Task::new(group.join("key"));
    joined.pending();
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 7);
    let outcome = joined.ready().unwrap().unwrap();
    assert_eq!((outcome.value, outcome.role), (7, Role::Follower));
    assert!(Task::new(group.join("key")).ready().is_none());
    assert_eq!(group.stats().led, 1);
}
