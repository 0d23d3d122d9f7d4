//! A bound on how deep wake-ups and ends of flights stand inside each other on one stack.
//!
//! A flight's end wakes the work that waited for it. That wakes the flight of this work, which wakes the work that waits for
//! it in turn. Work that is dropped drops its calls, and with them the work of flights that have no other caller. A caller of a
//! flight that has landed wakes others as it goes, which may be within its own wake-up: an executor may poll what it wakes, or
//! drop it. All of them go through code of the user and of runtimes, so none can be a loop. Beyond a bound, the next wake-up or
//! end is put off until the outermost one of this thread has returned. So a chain of any length takes a bounded part of the stack.

use crate::sync::{deepest, per_thread};
use crate::unwind::quietly;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

per_thread! {
    static OUTERMOST: Cell<Option<NonNull<Outermost>>> = Cell::new(None);
}

/// The outermost call of a thread. It is on the stack.
struct Outermost {
    depth: Cell<u32>,
    put_off: RefCell<Vec<Box<dyn FnOnce()>>>,
}

impl Outermost {
    fn next(&self) -> Option<Box<dyn FnOnce()>> {
        self.put_off.borrow_mut().pop()
    }
}

/// Calls `act` with `on`, or puts it off in the form that `later` makes of it, which has to keep alive what it needs.
pub(super) fn nest<O>(on: O, act: impl FnOnce(O), later: impl FnOnce(O) -> Box<dyn FnOnce()>) {
    let Some(outermost) = OUTERMOST.with(Cell::get) else {
        let outermost = Outermost {
            depth: Cell::new(1),
            put_off: RefCell::new(Vec::new()),
        };
        OUTERMOST.with(|place| place.set(Some(NonNull::from(&outermost))));
        let _over = Over(&outermost);
        return act(on);
    };
    // SAFETY: it is taken out of its place before it is freed, and all calls inside it have returned by then.
    let outermost = unsafe { outermost.as_ref() };
    if outermost.depth.get() >= deepest() {
        let act = later(on);
        outermost.put_off.borrow_mut().push(act);
        return;
    }
    outermost.depth.update(|depth| depth + 1);
    let _back = Back(&outermost.depth);
    act(on);
}

/// Does what was put off when dropped, also if the outermost call unwinds.
struct Over<'a>(&'a Outermost);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        while let Some(act) = self.0.next() {
            quietly(act);
        }
        OUTERMOST.with(|place| place.set(None));
    }
}

/// Counts the call out again when dropped.
struct Back<'a>(&'a Cell<u32>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.update(|depth| depth - 1);
    }
}
