//! What a flight and a follower weigh: bytes that stay allocated while they wait, allocations from beginning to end, and the
//! size of the caller's future.
//!
//! It needs a program whose global allocator counts (`bin/memory`), which is not the one whose time is measured. The memory in
//! which the callers' futures lie is allocated beforehand and counts as size, not as heap; every caller's own key counts as
//! heap for as long as it is kept.

use super::VALUE;
use crate::crowd::{Crowd, clear};
use crate::gate::Gate;
use crate::key::keys;
use crate::peers::{Peer, Side, Visitor, visit_all};
use crate::signal::Signals;
use bumpalo::Bump;
use serde::{Deserialize, Serialize};

/// So many flights or followers, for the figures of one.
pub const MANY: usize = 10_000;
/// So many flights at once, for the plot.
pub const FLIGHTS: [usize; 16] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, MANY, 20_000, 50_000, 100_000,
];

/// What the allocator has counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Bytes that are allocated now.
    pub live: i64,
    /// Allocations so far, and those that were enlarged.
    pub allocations: i64,
}

/// Asks the allocator.
pub type Counter = fn() -> Counted;

/// What one peer weighs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Weight {
    /// The peer.
    pub name: String,
    /// The peer that it belongs to.
    pub side: Side,
    /// Bytes on the heap for each flight, its key included, with so many in flight.
    pub flights: Vec<(usize, f64)>,
    /// Allocations of a flight from beginning to end, beyond the caller's key.
    pub flight_allocations: f64,
    /// What many followers of one flight weigh, each.
    pub follower: Follower,
}

/// What a follower weighs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Follower {
    /// Bytes on the heap while it waits.
    pub heap: f64,
    /// The size of its future.
    pub future: f64,
    /// The size of a block that owns handle, key and work, and awaits the call: a task's future, as people write it.
    pub block: f64,
    /// Allocations from beginning to end, beyond its key.
    pub allocations: f64,
    /// Futures of the work that are made for it.
    pub futures_made: f64,
}

/// Weighs every peer with this counter.
pub fn weigh(counter: Counter) -> Vec<Weight> {
    let callers = FLIGHTS[FLIGHTS.len() - 1];
    let mut scales = Scales {
        counter,
        keys: keys(0, callers),
        gates: Gate::leak_many(callers),
        weights: Vec::new(),
    };
    visit_all(&mut scales);
    scales.weights
}

struct Scales {
    counter: Counter,
    keys: Vec<String>,
    gates: &'static [Gate],
    weights: Vec<Weight>,
}

impl Visitor<String> for Scales {
    fn visit<P: Peer<String>>(&mut self) {
        // What is allocated once in a program does not count for any peer.
        self.flights::<P>(1);
        let weight = Weight {
            name: P::NAME.to_owned(),
            side: P::SIDE,
            flights: FLIGHTS.map(|count| (count, self.flights::<P>(count))).to_vec(),
            flight_allocations: self.flight_allocations::<P>(),
            follower: self.follower::<P>(),
        };
        self.weights.push(weight);
    }
}

impl Scales {
    /// Bytes for each of so many flights while their work waits.
    fn flights<P: Peer<String>>(&self, count: usize) -> f64 {
        let (peer, signals, gates) = (P::new(), Signals::new(count), &self.gates[..count]);
        gates.iter().for_each(Gate::reset);
        let call = |caller: usize| {
            let gate = &gates[caller];
            peer.call(self.keys[caller].clone(), gate.work(VALUE, 1))
        };
        let arena = room(count, self.future_size::<P>());
        let mut crowd = Crowd::<P, _>::new(&arena, &signals);
        let before = (self.counter)().live;
        (0..count).for_each(|caller| crowd.join(call(caller)));
        let heap = (self.counter)().live - before;
        assert!(
            gates.iter().all(|gate| gate.begun() == 1),
            "{}: somebody does not lead",
            P::NAME
        );
        for gate in gates {
            gate.step();
        }
        crowd.finish(VALUE);
        heap as f64 / count as f64
    }

    /// Of a call that is not polled, to a peer of its own, since some join or lead when they are called.
    fn future_size<P: Peer<String>>(&self) -> usize {
        let gate = &self.gates[0];
        size_of_val(&P::new().call(self.keys[0].clone(), gate.work(VALUE, 1)))
    }

    /// Of the same in a block, as it is spawned.
    fn block_size<P: Peer<String>>(&self) -> usize {
        let (peer, key, work) = (P::new(), self.keys[0].clone(), self.gates[0].work(VALUE, 1));
        size_of_val(&async move { peer.call(key, work).await })
    }

    /// Allocations of one flight after the other.
    fn flight_allocations<P: Peer<String>>(&self) -> f64 {
        let (peer, signals, gate, mut arena) =
            (P::new(), Signals::new(1), &self.gates[0], Bump::with_capacity(1 << 16));
        let mut fly = |key: &String| {
            gate.reset();
            clear(&mut arena);
            let mut crowd = Crowd::<P, _>::new(&arena, &signals);
            let before = (self.counter)().allocations;
            crowd.join(peer.call(key.clone(), gate.work(VALUE, 1)));
            gate.step();
            crowd.finish(VALUE);
            // One is the caller's clone of the key.
            (self.counter)().allocations - before - 1
        };
        let (first, second) = self.keys[..2 * MANY].split_at(MANY);
        // The tables grow to what they need.
        for key in first {
            fly(key);
        }
        second.iter().map(fly).sum::<i64>() as f64 / MANY as f64
    }

    fn follower<P: Peer<String>>(&self) -> Follower {
        let (peer, signals, gate) = (P::new(), Signals::new(1 + MANY), &self.gates[0]);
        gate.reset();
        let call = || peer.call(self.keys[0].clone(), gate.work(VALUE, 1));
        let future = self.future_size::<P>();
        let arena = room(1 + MANY, future);
        let mut crowd = Crowd::<P, _>::new(&arena, &signals);
        crowd.join(call());
        assert_eq!(gate.begun(), 1, "{}: nobody leads", P::NAME);
        let (before, made) = ((self.counter)(), gate.made());
        (0..MANY).for_each(|_| crowd.join(call()));
        let waiting = (self.counter)();
        gate.step();
        crowd.finish(VALUE);
        let ended = (self.counter)();
        assert_eq!(gate.begun(), 1, "{}: the work ran more than once", P::NAME);
        let each = |count: i64| count as f64 / MANY as f64;
        Follower {
            heap: each(waiting.live - before.live),
            future: future as f64,
            block: self.block_size::<P>() as f64,
            allocations: each(ended.allocations - before.allocations) - 1.0,
            futures_made: each((gate.made() - made) as i64),
        }
    }
}

/// Room for so many futures of that size.
fn room(count: usize, size: usize) -> Bump {
    // Each may have to be aligned.
    Bump::with_capacity(count * (size + 16))
}
