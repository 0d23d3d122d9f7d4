//! The operations whose instructions are counted, each ready to be run once.
//!
//! Each has been run a hundred times before it is handed out: the map has its tables, the allocator its blocks and the
//! thread its locals. What polls the calls is counted with them, and is a few instructions a call.

use crate::call::{ANSWER, Answer, FOLLOWERS, KEY, Orders, Task, answered, orders};
use crate::common::{Counter, Gate, yield_once};
use oneflight::{OnAbandon, Role};
use std::future::Future;
use std::pin::pin;
use std::task::Context;
use tokio::runtime::Builder;
use tokio::task::yield_now;

const WARM_UP: usize = 100;

/// What is counted when it is called, once.
pub type Operation = &'static mut dyn FnMut();

/// An operation by name.
pub struct Scene {
    pub name: &'static str,
    pub what: &'static str,
    /// How many callers share what it costs.
    pub callers: u64,
    pub set: fn() -> Operation,
}

macro_rules! scenes {
    ($($name:ident / $callers:expr, $what:literal;)*) => {
        /// All of them.
        pub const SCENES: &[Scene] = &[$(Scene {
            name: stringify!($name),
            what: $what,
            callers: $callers as u64,
            set: $name,
        }),*];
    };
}

scenes! {
    leader / 1, "a leader whom nobody joins, ready work; a 36-byte String key is cloned";
    leader_key_passed / 1, "the same with a key that was there before: the flight is all that is allocated";
    leader_by_ref / 1, "the same with `run_by_ref`";
    leader_u64 / 1, "the same with a u64 as the key";
    leader_yield / 1, "as `leader`, but the work yields once";
    follower / FOLLOWERS, "one of 1,000 who join, wait, are woken and take the result; his key is made for him";
    follower_by_ref / FOLLOWERS, "the same with `run_by_ref`: no key is made";
    hand_over / 1, "the driver is dropped, and the other caller polls the work on to its end";
    follower_dropped / 1, "one of three followers is dropped while he waits";
    abandoned_cancelled / 1, "the only caller is dropped, and the work with him";
    abandoned_finished / 1, "the only caller is dropped, and a task finishes the work; the runtime's part included";
}

fn leaked<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// `operate` on a stage that is set before each time.
fn warm<S: 'static>(mut stage: S, set: impl Fn(&mut S), operate: impl Fn(&mut S) + 'static) -> Operation {
    for _ in 0..WARM_UP {
        set(&mut stage);
        operate(&mut stage);
    }
    set(&mut stage);
    leaked(move || operate(&mut stage))
}

/// Polls a leader's call where it stands: so many times it is pending, then it is ready.
fn led(call: impl Future<Output = Answer>, cx: &mut Context<'_>, pending: usize) {
    let mut call = pin!(call);
    for _ in 0..pending {
        assert!(call.as_mut().poll(cx).is_pending());
    }
    answered(call.poll(cx), Role::Leader);
}

/// A leader that no caller joins.
fn alone<K: 'static>(call: impl Fn(&'static Orders<K>, &mut Context<'_>) + 'static) -> Operation {
    let group: &Orders<K> = leaked(orders().build());
    let waker = Counter::new().1;
    warm((), |()| {}, move |()| call(group, &mut Context::from_waker(&waker)))
}

pub fn leader() -> Operation {
    let key = KEY.to_owned();
    alone(move |group, cx| led(group.run(key.clone(), || async { ANSWER }), cx, 0))
}

pub fn leader_key_passed() -> Operation {
    let group: &Orders = leaked(orders().build());
    let waker = Counter::new().1;
    warm(
        None,
        |key| *key = Some(KEY.to_owned()),
        move |key| {
            let key = key.take().expect("the key was set");
            led(group.run(key, || async { ANSWER }), &mut Context::from_waker(&waker), 0);
        },
    )
}

pub fn leader_u64() -> Operation {
    alone(|group: &Orders<u64>, cx| led(group.run(42, || async { ANSWER }), cx, 0))
}

pub fn leader_by_ref() -> Operation {
    alone(|group: &Orders, cx| led(group.run_by_ref(KEY, || async { ANSWER }), cx, 0))
}

pub fn leader_yield() -> Operation {
    let key = KEY.to_owned();
    let work = || async {
        yield_once().await;
        ANSWER
    };
    alone(move |group, cx| led(group.run(key.clone(), work), cx, 1))
}

/// A flight whose work waits at a gate, and the tasks of its callers.
struct Stage<F> {
    group: &'static Orders,
    gate: &'static Gate,
    leader: Task<F>,
    followers: Vec<Task<F>>,
}

impl<F: Future<Output = Answer>> Stage<F> {
    fn new(group: Orders, followers: usize) -> Self {
        Self {
            group: leaked(group),
            gate: leaked(Gate::new()),
            leader: Task::idle(),
            followers: std::iter::repeat_with(Task::idle).take(followers).collect(),
        }
    }

    fn lead(&mut self, call: impl Fn(&'static Orders, &'static Gate) -> F) {
        self.leader.begin(call(self.group, self.gate));
    }

    fn follow(&mut self, call: impl Fn(&'static Orders, &'static Gate) -> F) {
        for follower in &mut self.followers {
            follower.begin(call(self.group, self.gate));
        }
    }
}

fn call(group: &'static Orders, gate: &'static Gate) -> impl Future<Output = Answer> {
    group.run(KEY.to_owned(), move || async {
        gate.pass().await;
        ANSWER
    })
}

fn call_by_ref(group: &'static Orders, gate: &'static Gate) -> impl Future<Output = Answer> {
    group.run_by_ref(KEY, move || async {
        gate.pass().await;
        ANSWER
    })
}

/// A thousand followers join, the leader lands, they take the result.
fn followed<F>(call: impl Fn(&'static Orders, &'static Gate) -> F + Copy + 'static) -> Operation
where
    F: Future<Output = Answer> + 'static,
{
    warm(
        Stage::new(orders().build(), FOLLOWERS),
        move |stage| stage.lead(call),
        move |stage| {
            stage.follow(call);
            stage.gate.open(1);
            stage.leader.finish(Role::Leader);
            for follower in &mut stage.followers {
                follower.finish(Role::Follower);
            }
        },
    )
}

pub fn follower() -> Operation {
    followed(call)
}

pub fn follower_by_ref() -> Operation {
    followed(call_by_ref)
}

/// The driver is dropped, and the other caller polls the work on to its end.
pub fn hand_over() -> Operation {
    warm(
        Stage::new(orders().build(), 1),
        |stage| {
            stage.lead(call);
            stage.follow(call);
        },
        |stage| {
            stage.leader.leave();
            stage.gate.open(1);
            stage.followers[0].finish(Role::Follower);
        },
    )
}

/// One of three followers is dropped while it waits.
pub fn follower_dropped() -> Operation {
    warm(
        Stage::new(orders().on_abandon(OnAbandon::Cancel).build(), 3),
        |stage| {
            stage.leader.leave();
            stage.followers.iter_mut().for_each(Task::leave);
            stage.lead(call);
            stage.follow(call);
        },
        |stage| stage.followers[1].leave(),
    )
}

/// The only caller is dropped, and the work with it.
pub fn abandoned_cancelled() -> Operation {
    warm(
        Stage::new(orders().on_abandon(OnAbandon::Cancel).build(), 0),
        |stage| stage.lead(call),
        |stage| stage.leader.leave(),
    )
}

/// The only caller is dropped, and a task finishes the work; what the runtime does for that is counted as well.
pub fn abandoned_finished() -> Operation {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    warm(
        Stage::new(orders().build(), 0),
        |stage| {
            assert_eq!(stage.group.in_flight(), 0);
            stage.lead(call);
        },
        move |stage| {
            runtime.block_on(async {
                stage.leader.leave();
                stage.gate.open(1);
                yield_now().await;
            });
        },
    )
}
