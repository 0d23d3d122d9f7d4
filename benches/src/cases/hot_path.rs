//! A leader alone: no other caller, which is what nearly every call of a service is like.

use super::per;
use crate::contest::{Run, Trial};
use crate::key::{Key, keys};
use crate::peers::{Peer, Side};
use crate::signal::Signals;
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::sleep;

/// How many keys are called in turn.
pub const KEYS: usize = 512;
/// So few that a round is short, and seldom interrupted.
const PASSES: usize = 6;

/// Passes before that, which are not timed: another peer had the caches before.
const LEAD_IN: usize = 1;

/// What a caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A key of its own, cloned for the call, which is timed.
    Owned,
    /// A borrowed key.
    Borrowed,
}

impl Keys {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Borrowed => "borrowed",
        }
    }
}

/// Work that is ready at once.
#[derive(Clone, Copy, Debug)]
pub struct Ready(pub Keys);

/// Work that yields once to the runtime.
#[derive(Clone, Copy, Debug)]
pub struct Yielding(pub Keys);

/// Work that sleeps for a millisecond.
#[derive(Clone, Copy, Debug)]
pub struct Sleeping(pub Keys);

impl<K: Key> Trial<1, K> for Ready {
    fn enter<P: Peer<K>>(&self) -> Result<Run<1>, String> {
        let (peer, keys, signals) = (P::new(), keys::<K>(0, KEYS), Signals::new(1));
        let calls = PASSES * KEYS;
        Ok(match keys_for::<K, P>(self.0)? {
            Keys::Owned => Box::new(move || {
                ready_work::<false, _, _>(&peer, &keys, LEAD_IN, signals.waker(0));
                let time = ready_work::<false, _, _>(&peer, &keys, PASSES, signals.waker(0));
                [per(time, calls)]
            }),
            Keys::Borrowed => Box::new(move || {
                ready_work::<true, _, _>(&peer, &keys, LEAD_IN, signals.waker(0));
                let time = ready_work::<true, _, _>(&peer, &keys, PASSES, signals.waker(0));
                [per(time, calls)]
            }),
        })
    }
}

impl<K: Key> Trial<1, K> for Yielding {
    fn enter<P: Peer<K>>(&self) -> Result<Run<1>, String> {
        let (peer, keys, runtime) = (P::new(), keys::<K>(0, KEYS).into(), runtime());
        let calls = PASSES * KEYS;
        Ok(match keys_for::<K, P>(self.0)? {
            Keys::Owned => Box::new(move || {
                yielding_work::<false, _, _>(&runtime, &peer, &keys, LEAD_IN);
                let time = yielding_work::<false, _, _>(&runtime, &peer, &keys, PASSES);
                [per(time, calls)]
            }),
            Keys::Borrowed => Box::new(move || {
                yielding_work::<true, _, _>(&runtime, &peer, &keys, LEAD_IN);
                let time = yielding_work::<true, _, _>(&runtime, &peer, &keys, PASSES);
                [per(time, calls)]
            }),
        })
    }
}

impl<K: Key> Trial<1, K> for Sleeping {
    fn enter<P: Peer<K>>(&self) -> Result<Run<1>, String> {
        let (peer, keys) = (P::new(), keys::<K>(0, KEYS).into());
        Ok(match keys_for::<K, P>(self.0)? {
            Keys::Owned => Box::new(move || [per(sleeping_work::<false, _, _>(&peer, &keys), KEYS)]),
            Keys::Borrowed => Box::new(move || [per(sleeping_work::<true, _, _>(&peer, &keys), KEYS)]),
        })
    }
}

/// The floors clone the key themselves, once; a caller's clone would be a second one.
fn keys_for<K: Key, P: Peer<K>>(keys: Keys) -> Result<Keys, String> {
    match (keys, P::SIDE) {
        (_, Side::Floor) => Ok(Keys::Borrowed),
        (Keys::Owned, _) => Ok(Keys::Owned),
        (Keys::Borrowed, _) => P::BORROWS.map(|()| Keys::Borrowed).map_err(str::to_owned),
    }
}

/// The runtime of one thread in which work yields.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime of one thread")
}

/// Calls each key once a pass, with work that is ready at once, and times all of it.
///
/// # Panics
///
/// If a call is not ready at once with the value of its own work: it would not have run it.
pub fn ready_work<const BORROWED: bool, K: Key, P: Peer<K>>(
    peer: &P,
    keys: &[K],
    passes: usize,
    waker: &Waker,
) -> Duration {
    let mut context = Context::from_waker(waker);
    let start = Instant::now();
    for _ in 0..passes {
        for (value, key) in (0..).zip(keys) {
            let work = move || ready(value);
            let polled = if BORROWED {
                pin!(peer.call_by_ref(key, work)).poll(&mut context)
            } else {
                pin!(peer.call(key.clone(), work)).poll(&mut context)
            };
            match polled {
                Poll::Ready(reply) => assert_eq!(P::outcome(reply), Ok(value), "{}: not its own work", P::NAME),
                Poll::Pending => panic!("{}: a lone call with ready work is pending", P::NAME),
            }
        }
    }
    start.elapsed()
}

/// The same with work that yields once, in a task of a runtime.
///
/// # Panics
///
/// If a call does not end with the value of its own work.
pub fn yielding_work<const BORROWED: bool, K: Key, P: Peer<K>>(
    runtime: &Runtime,
    peer: &P,
    keys: &Arc<[K]>,
    passes: usize,
) -> Duration {
    let (peer, keys) = (peer.clone(), Arc::clone(keys));
    let calls = async move {
        let start = Instant::now();
        for _ in 0..passes {
            for (value, key) in (0..).zip(&*keys) {
                let work = move || async move {
                    yield_now().await;
                    value
                };
                let reply = if BORROWED {
                    peer.call_by_ref(key, work).await
                } else {
                    peer.call(key.clone(), work).await
                };
                assert_eq!(P::outcome(reply), Ok(value), "{}: not its own work", P::NAME);
            }
        }
        start.elapsed()
    };
    let calls = runtime.spawn(calls);
    runtime.block_on(calls).expect("the task of the calls panicked")
}

/// The same once, with work that sleeps for a millisecond, on a clock that does not wait: what the timer costs, and no more.
///
/// # Panics
///
/// If a call does not end with the value of its own work.
pub fn sleeping_work<const BORROWED: bool, K: Key, P: Peer<K>>(peer: &P, keys: &Arc<[K]>) -> Duration {
    let (peer, keys) = (peer.clone(), Arc::clone(keys));
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime whose clock stands still");
    let calls = runtime.spawn(async move {
        let start = Instant::now();
        for (value, key) in (0..).zip(&*keys) {
            let work = move || async move {
                sleep(Duration::from_millis(1)).await;
                value
            };
            let reply = if BORROWED {
                peer.call_by_ref(key, work).await
            } else {
                peer.call(key.clone(), work).await
            };
            assert_eq!(P::outcome(reply), Ok(value), "{}: not its own work", P::NAME);
        }
        start.elapsed()
    });
    runtime.block_on(calls).expect("the task of the calls panicked")
}
