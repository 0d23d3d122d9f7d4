//! The driver is dropped in the middle of the work, and the next caller goes on with it, to its end.

use super::{VALUE, per};
use crate::contest::{Run, Trial};
use crate::crowd::clear;
use crate::gate::Gate;
use crate::key::keys;
use crate::peers::Peer;
use crate::signal::Signals;
use bumpalo::Bump;
use bumpalo::boxed::Box as Boxed;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// So many flights are handed over in a round, one after the other; the cost is that of one.
const FLIGHTS: usize = 256;

/// Two callers for each flight, the first of which is dropped. The time is from there to the other's result.
#[derive(Clone, Copy, Debug)]
pub struct HandOver;

impl Trial for HandOver {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let (peer, mut scene) = (P::new(), Scene::new());
        // Some cannot, which this shows.
        scene.fly(&peer)?;
        Ok(Box::new(move || {
            let time = scene.fly(&peer).expect("he could before");
            [per(time, FLIGHTS)]
        }))
    }
}

struct Scene {
    keys: Vec<String>,
    gates: &'static [Gate],
    /// The leaders', then the followers'.
    signals: Signals,
    arena: Bump,
}

impl Scene {
    fn new() -> Self {
        Self {
            keys: keys(0, FLIGHTS),
            gates: Gate::leak_many(FLIGHTS),
            signals: Signals::new(2 * FLIGHTS),
            arena: Bump::new(),
        }
    }

    fn fly<P: Peer<String>>(&mut self, peer: &P) -> Result<Duration, String> {
        let Self {
            keys,
            gates,
            signals,
            arena,
        } = self;
        let gates: &'static [Gate] = gates;
        gates.iter().for_each(Gate::reset);
        clear(arena);
        let begin = |caller: usize| {
            let flight = caller % FLIGHTS;
            let mut call = Boxed::pin_in(peer.call(keys[flight].clone(), gates[flight].work(VALUE, 1)), arena);
            let polled = call.as_mut().poll(&mut Context::from_waker(signals.waker(caller)));
            assert!(
                polled.is_pending() && gates[flight].begun() == 1,
                "{}: no flight of two",
                P::NAME
            );
            call
        };
        let leaders: Vec<_> = (0..FLIGHTS).map(begin).collect();
        let followers: Vec<_> = (FLIGHTS..2 * FLIGHTS).map(begin).collect();

        let start = Instant::now();
        for (flight, (leader, mut follower)) in leaders.into_iter().zip(followers).enumerate() {
            let caller = FLIGHTS + flight;
            let mut context = Context::from_waker(signals.waker(caller));
            drop(leader);
            if signals.take(caller) > 0 && follower.as_mut().poll(&mut context).is_ready() {
                return Err("the follower ends before the work does".to_owned());
            }
            gates[flight].step();
            if signals.take(caller) == 0 {
                return Err("the follower is not woken".to_owned());
            }
            match follower.as_mut().poll(&mut context) {
                Poll::Pending => return Err("the follower waits on".to_owned()),
                Poll::Ready(reply) => assert_eq!(P::outcome(reply), Ok(VALUE), "{}: another value", P::NAME),
            }
        }
        let time = start.elapsed();
        if gates.iter().any(|gate| gate.begun() > 1) {
            return Err("the follower runs the work again".to_owned());
        }
        Ok(time)
    }
}
