//! How many callers are woken while the work merely progresses: it takes a step, and is not at its end.

use super::VALUE;
use crate::contest::{Figure, Standings};
use crate::crowd::Crowd;
use crate::gate::Gate;
use crate::key::Key;
use crate::peers::{Peer, Visitor, visit_all};
use crate::signal::Signals;
use bumpalo::Bump;

const STEPS: u64 = 15;

/// The wake-ups of each step, for every peer.
pub fn count(followers: usize) -> Standings {
    let mut counting = Counting {
        followers,
        standings: Standings::default(),
    };
    visit_all(&mut counting);
    counting.standings
}

struct Counting {
    followers: usize,
    standings: Standings,
}

impl Visitor<String> for Counting {
    fn visit<P: Peer<String>>(&mut self) {
        let wakes = progress(&P::new(), self.followers);
        self.standings.figures.push(Figure::new(P::NAME, P::SIDE, wakes));
    }
}

/// Lets the work of one flight take its steps, polling the callers that are woken, and counts the wake-ups of each.
fn progress<P: Peer<String>>(peer: &P, followers: usize) -> Vec<f64> {
    let (key, gate, signals, arena) = (
        String::numbered(0),
        Gate::leak(),
        Signals::new(followers + 1),
        Bump::new(),
    );
    let mut crowd = Crowd::<P, _>::new(&arena, &signals);
    for _ in 0..=followers {
        crowd.join(peer.call(key.clone(), gate.work(VALUE, STEPS + 1)));
    }
    let mut settle = || {
        let mut wakes = 0;
        loop {
            let more = crowd.poll_woken(VALUE);
            wakes += more;
            if more == 0 {
                return wakes as f64;
            }
        }
    };
    settle();
    let mut step = || {
        gate.step();
        settle()
    };
    let wakes = (0..STEPS).map(|_| step()).collect();
    gate.step();
    crowd.finish(VALUE);
    assert_eq!(gate.begun(), 1, "{}: the work ran more than once", P::NAME);
    wakes
}
