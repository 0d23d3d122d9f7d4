//! The user's side of a group: keys, values and wakers that count what becomes of them, and panic where they are told to.

use crate::history::Spot;
use crate::world::with;
use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU8, Ordering::SeqCst};
use std::task::{RawWaker, RawWakerVTable, Waker};

/// How each panic that the target causes begins.
pub const PLANNED: &str = "as planned";

/// Counts itself among the living.
pub struct Live(&'static AtomicIsize);

pub static KEYS: AtomicIsize = AtomicIsize::new(0);
pub static VALUES: AtomicIsize = AtomicIsize::new(0);

impl Live {
    fn new(living: &'static AtomicIsize) -> Self {
        living.fetch_add(1, SeqCst);
        Self(living)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        assert!(self.0.fetch_sub(1, SeqCst) > 0, "dropped twice");
    }
}

static SABOTAGE: [AtomicU8; 8] = [const { AtomicU8::new(0) }; 8];

pub fn sabotage(spot: Spot, after: u8) {
    SABOTAGE[spot as usize].store(after + 1, SeqCst);
}

pub fn end_sabotage() {
    SABOTAGE.iter().for_each(|spot| spot.store(0, SeqCst));
}

pub fn reached(spot: Spot) {
    let left = SABOTAGE[spot as usize].load(SeqCst);
    if left > 0 {
        SABOTAGE[spot as usize].store(left - 1, SeqCst);
        assert!(left > 1, "{PLANNED}: {spot:?}");
    }
}

/// The borrowed form of a key.
#[derive(Eq)]
pub struct Name(u8);

pub static NAMES: [Name; crate::history::KEYS as usize] = [Name(0), Name(1), Name(2), Name(3)];

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        reached(Spot::Hash);
        self.0.hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        reached(Spot::Eq);
        self.0 == other.0
    }
}

impl ToOwned for Name {
    type Owned = Key;

    fn to_owned(&self) -> Key {
        reached(Spot::ToOwned);
        Key::new(self.0)
    }
}

#[derive(PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    live: Alike<Live>,
}

/// Has no part in comparisons.
struct Alike<T>(#[allow(dead_code, reason = "is there to be dropped")] T);

impl<T> PartialEq for Alike<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Alike<T> {}

impl<T> Hash for Alike<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Key {
    pub fn new(key: u8) -> Self {
        Self {
            name: Name(key),
            live: Alike(Live::new(&KEYS)),
        }
    }
}

impl Borrow<Name> for Key {
    fn borrow(&self) -> &Name {
        &self.name
    }
}

/// What work comes to: which execution it was.
pub struct Value {
    pub execution: usize,
    received: bool,
    _live: Live,
}

impl Value {
    pub fn new(execution: usize) -> Self {
        Self {
            execution,
            received: false,
            _live: Live::new(&VALUES),
        }
    }

    /// From here on it is the caller's, who drops it without a panic.
    pub fn receive(mut self) -> usize {
        self.received = true;
        self.execution
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        reached(Spot::CloneValue);
        Self::new(self.execution)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if !self.received {
            reached(Spot::DropValue);
        }
    }
}

/// Whether a slot is woken.
pub struct Flag {
    pub slot: usize,
    /// It is polled where it is woken, as executors do that have no queue.
    pub inline: bool,
    pub woken: AtomicBool,
}

impl Flag {
    pub fn waker(self: &Arc<Self>) -> Waker {
        // SAFETY: the table treats the pointer as the `Arc` that it was made from.
        unsafe { Waker::from_raw(raw(Arc::clone(self))) }
    }

    fn wake(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        reached(Spot::Wake);
        if self.inline {
            with(|world| world.poll_if(self));
        }
    }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

fn raw(flag: Arc<Flag>) -> RawWaker {
    RawWaker::new(Arc::into_raw(flag).cast(), &TABLE)
}

unsafe fn clone(flag: *const ()) -> RawWaker {
    reached(Spot::CloneWaker);
    // SAFETY: it was made by `raw`, and is still owned by the waker that is cloned.
    let flag = unsafe { ManuallyDrop::new(Arc::from_raw(flag.cast::<Flag>())) };
    raw(Arc::clone(&flag))
}

unsafe fn wake(flag: *const ()) {
    // SAFETY: it was made by `raw`, and is given up with this call.
    unsafe { Arc::from_raw(flag.cast::<Flag>()) }.wake();
}

unsafe fn wake_by_ref(flag: *const ()) {
    // SAFETY: it was made by `raw`, and is still owned by the waker.
    unsafe { ManuallyDrop::new(Arc::from_raw(flag.cast::<Flag>())) }.wake();
}

unsafe fn drop_waker(flag: *const ()) {
    // SAFETY: it was made by `raw`, and is given up with this call.
    drop(unsafe { Arc::from_raw(flag.cast::<Flag>()) });
}
