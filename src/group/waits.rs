//! Who waits for whom: the edges between flights whose work has made a call and the flights that it waits for.
//!
//! An edge belongs to the flight whose work polled the call last: each poll sees to it, and a poll outside of all work
//! takes the edge away. Only calls that are polled inside work come here, whatever their group, so a circle through several
//! groups is seen as well. An edge is entered only if the child does not wait for the parent already; since that is
//! looked up and entered under one lock, the edges never form a circle.
//!
//! What is not seen: a wait that passes through a spawned task, or through anything else that is not a call; and a call
//! that the work has given away, until it is polled elsewhere or dropped, still counts as the work's.

use crate::flight::{Anchor, Caller, Home};
use crate::sync::{Mutex, global};
use std::collections::{HashMap, HashSet};

global! {
    /// For each flight by its address, the flights that its work waits for, and how often it does.
    static WAITS: Mutex<Waits> = Mutex::new(Waits::new());
}

type Waits = HashMap<usize, HashMap<usize, usize>>;

/// One edge, while it lives. It keeps both addresses from being used again.
#[derive(Debug)]
pub(super) struct Wait {
    parent: Anchor,
    child: Anchor,
}

/// Waiting would close a circle.
#[derive(Debug)]
pub(super) struct Circle;

impl Wait {
    pub(super) fn enter(parent: Anchor, child: Anchor) -> Result<Self, Circle> {
        let mut waits = WAITS.lock();
        if leads_to(&waits, child.id(), parent.id()) {
            return Err(Circle);
        }
        *waits.entry(parent.id()).or_default().entry(child.id()).or_default() += 1;
        drop(waits);
        Ok(Self { parent, child })
    }
}

/// Before a call that has a flight is polled: the flight is waited for by whose work polls the call now.
#[inline]
pub(super) fn follow<K, T, H: Home<K, T>>(wait: &mut Option<Wait>, caller: &Caller<K, T, H>) -> Result<(), Circle> {
    if Anchor::current_id() == wait.as_ref().map(|wait| wait.parent.id()) {
        return Ok(());
    }
    moved(wait, caller)
}

#[cold]
fn moved<K, T, H: Home<K, T>>(wait: &mut Option<Wait>, caller: &Caller<K, T, H>) -> Result<(), Circle> {
    *wait = None;
    // Nobody waits for a flight that has landed.
    if let (Some(parent), Some(child)) = (Anchor::current(), caller.under_way()) {
        *wait = Some(Wait::enter(parent, child)?);
    }
    Ok(())
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = WAITS.lock();
        if let Some(children) = waits.get_mut(&self.parent.id()) {
            if let Some(edges) = children.get_mut(&self.child.id()) {
                *edges -= 1;
                if *edges == 0 {
                    children.remove(&self.child.id());
                }
            }
            if children.is_empty() {
                waits.remove(&self.parent.id());
            }
        }
    }
}

fn leads_to(waits: &Waits, from: usize, to: usize) -> bool {
    let mut open = vec![from];
    let mut seen = HashSet::new();
    while let Some(flight) = open.pop() {
        if flight == to {
            return true;
        }
        if seen.insert(flight) {
            open.extend(waits.get(&flight).into_iter().flat_map(HashMap::keys));
        }
    }
    false
}
