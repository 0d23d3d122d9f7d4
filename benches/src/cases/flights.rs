//! Many flights at once, each with a caller of its own: what the whole life of one costs while so many others are in
//! flight.

use super::{VALUE, per, repeats};
use crate::contest::{Run, Trial};
use crate::crowd::{Crowd, clear};
use crate::gate::Gate;
use crate::key::keys;
use crate::peers::Peer;
use crate::signal::Signals;
use bumpalo::Bump;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// That many flights at once; the cost is that of one.
#[derive(Clone)]
pub struct Flights(Rc<RefCell<Scene>>);

/// What so many callers have without the peer. It is made once and lent to one peer after the other.
struct Scene {
    keys: Vec<String>,
    gates: &'static [Gate],
    signals: Signals,
    arena: Bump,
}

impl Flights {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self(Rc::new(RefCell::new(Scene {
            keys: keys(0, count),
            gates: Gate::leak_many(count),
            signals: Signals::new(count),
            arena: Bump::new(),
        })))
    }
}

impl Trial for Flights {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let (scene, peer) = (Rc::clone(&self.0), P::new());
        let count = scene.borrow().keys.len();
        let repeats = repeats(2_000, count);
        Ok(Box::new(move || {
            let mut scene = scene.borrow_mut();
            if repeats > 1 {
                // Not timed: another peer had the caches before.
                scene.fly(&peer);
            }
            let time = (0..repeats).map(|_| scene.fly(&peer)).sum();
            [per(time, repeats * count)]
        }))
    }
}

impl Scene {
    fn fly<P: Peer<String>>(&mut self, peer: &P) -> Duration {
        let Self {
            keys,
            gates,
            signals,
            arena,
        } = self;
        let gates: &'static [Gate] = gates;
        gates.iter().for_each(Gate::reset);
        clear(arena);
        let mut crowd = Crowd::<P, _>::new(arena, signals);

        let start = Instant::now();
        for (key, gate) in keys.iter().zip(gates) {
            crowd.join(peer.call(key.clone(), gate.work(VALUE, 1)));
            assert_eq!(gate.begun(), 1, "{}: it does not lead", P::NAME);
        }
        for (caller, gate) in gates.iter().enumerate() {
            gate.step();
            crowd.poll_if_woken(caller, VALUE);
        }
        let time = start.elapsed();
        assert_eq!(
            crowd.waiting(),
            0,
            "{}: somebody waits after the end of his work",
            P::NAME
        );
        time
    }
}
