//! Many callers of one key while its work runs: join, wait, wake, take the result.

use super::{VALUE, per, repeats};
use crate::contest::{Run, Trial};
use crate::crowd::{Crowd, clear};
use crate::gate::Gate;
use crate::key::Key;
use crate::peers::Peer;
use crate::signal::Signals;
use bumpalo::Bump;
use std::time::{Duration, Instant};

/// That many followers of one flight; the cost is that of one.
#[derive(Clone, Copy, Debug)]
pub struct FanIn(pub usize);

impl Trial for FanIn {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let followers = self.0;
        let repeats = repeats(2_000, followers);
        let (peer, mut scene) = (P::new(), Scene::new(followers));
        Ok(Box::new(move || {
            if repeats > 1 {
                // Not timed: another peer had the caches before.
                scene.fly(&peer);
            }
            let time = (0..repeats).map(|_| scene.fly(&peer)).sum();
            [per(time, repeats * followers)]
        }))
    }
}

/// What the callers of one flight have without the peer.
pub struct Scene {
    followers: usize,
    key: String,
    gate: &'static Gate,
    signals: Signals,
    arena: Bump,
}

impl Scene {
    /// For a leader and that many followers.
    pub fn new(followers: usize) -> Self {
        Self {
            followers,
            key: String::numbered(0),
            gate: Gate::leak(),
            signals: Signals::new(followers + 1),
            arena: Bump::new(),
        }
    }

    /// One flight. The time is from the first follower's call to the last one's result: all but the leader's start.
    ///
    /// # Panics
    ///
    /// If a caller was not pending before the work ended, if the work did not run exactly once, or if the callers
    /// stall.
    pub fn fly<P: Peer<String>>(&mut self, peer: &P) -> Duration {
        self.gate.reset();
        clear(&mut self.arena);
        let (key, gate) = (&self.key, self.gate);
        let call = || peer.call(key.clone(), gate.work(VALUE, 1));
        let mut crowd = Crowd::<P, _>::new(&self.arena, &self.signals);
        crowd.join(call());
        assert_eq!(gate.begun(), 1, "{}: nobody leads", P::NAME);

        let start = Instant::now();
        for _ in 0..self.followers {
            crowd.join(call());
        }
        assert_eq!(crowd.waiting(), 1 + self.followers);
        gate.step();
        crowd.finish(VALUE);
        let time = start.elapsed();
        assert_eq!(gate.begun(), 1, "{}: the work ran more than once", P::NAME);
        time
    }
}
