//! Who waits for whom: the edges between flights whose work has made a call and the flights that it waits for.
//!
//! Only calls that are made from inside work come here, whatever their group, so a circle through several groups is
//! seen as well. An edge is entered only if the child does not wait for the parent already; since that is looked up
//! and entered under one lock, the edges never form a circle.

use crate::flight::Parent;
use crate::sync::{Mutex, global};
use std::collections::HashMap;

global! {
    /// For each flight by its address, the flights that its work waits for, as often as it does.
    static WAITS: Mutex<HashMap<usize, Vec<usize>>> = Mutex::new(HashMap::new());
}

/// One edge, while it lives. It keeps the parent's address from being used again; the child is kept by the caller who
/// waits for it.
#[derive(Debug)]
pub(super) struct Wait {
    parent: Parent,
    child: usize,
}

/// Waiting would close a circle.
#[derive(Debug)]
pub(super) struct Circle;

impl Wait {
    pub(super) fn enter(parent: Parent, child: usize) -> Result<Self, Circle> {
        let mut waits = WAITS.lock();
        if leads_to(&waits, child, parent.id()) {
            return Err(Circle);
        }
        waits.entry(parent.id()).or_default().push(child);
        drop(waits);
        Ok(Self { parent, child })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = WAITS.lock();
        if let Some(children) = waits.get_mut(&self.parent.id()) {
            if let Some(place) = children.iter().position(|child| *child == self.child) {
                children.swap_remove(place);
            }
            if children.is_empty() {
                waits.remove(&self.parent.id());
            }
        }
    }
}

fn leads_to(waits: &HashMap<usize, Vec<usize>>, from: usize, to: usize) -> bool {
    let mut open = vec![from];
    let mut seen = Vec::new();
    while let Some(flight) = open.pop() {
        if flight == to {
            return true;
        }
        if seen.contains(&flight) {
            continue;
        }
        seen.push(flight);
        open.extend(waits.get(&flight).into_iter().flatten());
    }
    false
}
