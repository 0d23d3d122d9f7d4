//! Who waits for whom: the edges between flights whose work has made a call and the flights that it waits for.
//!
//! Only calls that are made from inside work come here, whatever their group, so a circle through several groups is
//! seen as well. An edge is entered only if the child does not wait for the parent already; since that is looked up
//! and entered under one lock, the edges never form a circle.

use crate::flight::Anchor;
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
