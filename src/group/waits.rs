//! Which flight waits for which: edges from flights whose work has made a call to the flights that the calls wait for.
//!
//! An edge belongs to the flight whose work polled the call last: each poll updates it, and a poll outside of all work removes
//! it. Only calls that are polled inside work come here. They do so whatever their group, so a circle through several groups is
//! seen as well. An edge is entered only if the child does not wait for the parent already. Both the check and the entry are
//! made under one lock, so the edges never form a circle.
//!
//! A wait that passes through a spawned task, or through anything else that is not a call, is not seen. A call that the work
//! has given away counts as the work's until it is polled elsewhere or dropped.

use crate::flight::{Anchor, Caller, Home};
use crate::sync::{Mutex, global};
use std::collections::{HashMap, HashSet};

global! {
    /// For the address of each flight, the flights that its work waits for, and the number of such waits.
    static WAITS: Mutex<Waits> = Mutex::new(Waits::new());
}

type Waits = HashMap<usize, HashMap<usize, usize>>;

/// One edge, which is removed on drop. It keeps both addresses from being used again. It is boxed, since few calls have one and
/// each call would have the room for it.
#[derive(Debug)]
pub(super) struct Wait {
    parent: Anchor,
    child: Anchor,
}

/// The wait would close a circle.
#[derive(Debug)]
pub(super) struct Circle;

impl Wait {
    pub(super) fn enter(parent: Anchor, child: Anchor) -> Result<Box<Self>, Circle> {
        let mut waits = WAITS.lock();
        if leads_to(&waits, child.id(), parent.id()) {
            return Err(Circle);
        }
        *waits.entry(parent.id()).or_default().entry(child.id()).or_default() += 1;
        drop(waits);
        Ok(Box::new(Self { parent, child }))
    }
}

/// Updates the edge of a call that has a flight, before the call is polled: the work that polls it now is what waits.
#[inline]
pub(super) fn follow<K, T, H: Home<K, T>>(
    wait: &mut Option<Box<Wait>>,
    caller: &Caller<K, T, H>,
) -> Result<(), Circle> {
    if Anchor::current_id() == wait.as_ref().map(|wait| wait.parent.id()) {
        return Ok(());
    }
    moved(wait, caller)
}

#[cold]
fn moved<K, T, H: Home<K, T>>(wait: &mut Option<Box<Wait>>, caller: &Caller<K, T, H>) -> Result<(), Circle> {
    *wait = None;
    // A flight that has landed is not waited for.
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
