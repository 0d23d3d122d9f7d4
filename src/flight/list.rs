//! The callers who wait: an intrusive ring of nodes that live in the callers' own pinned futures, so that waiting
//! allocates nothing.
//!
//! A node is linked exactly while it waits: its waker is taken out only together with the node. One exception: the
//! leader's node is linked from birth, and while nobody has joined its waker is the affair of whoever has `POLLING`.
//! At the front stands the driver (the caller who polled the work last), then the others in the order in which they
//! came. All functions of the list ask for its lock to be held.
//!
//! Who comes to wait takes no lock: he puts himself on a stack of newcomers (R. K. Treiber, *Systems Programming: Coping
//! with Parallelism*, IBM RJ 5118, 1986) by one compare-exchange. Whoever takes the lock takes the whole stack first,
//! so under the lock there are no newcomers but those who come meanwhile. Nobody takes a single node off the stack, so
//! an address that is used again does no harm there; since the exchange compares addresses, the pointer to the next node
//! is made anew from its address when it is followed.

use crate::sync::{AtomicBool, AtomicPtr, Mutex, UnsafeCell, glance};
use std::cell::Cell;
use std::marker::PhantomPinned;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// How many callers behind the driver are looked at for one that another task polls.
const STANDBY_SEARCH: usize = 8;

/// A caller's place in the list.
#[derive(Debug)]
pub(super) struct Node {
    /// Set by its owner, cleared under the lock. Whoever clears it does so last and never touches the node again, so a caller who reads
    /// `false` without the lock may free his node.
    linked: AtomicBool,
    /// Its owner's note: it has given a task of ours the chance to come, and the task had not come by then. Nobody else
    /// touches it; it stands here because there is room.
    pub(super) outwaited: Cell<bool>,
    waker: UnsafeCell<Option<Waker>>,
    links: UnsafeCell<Links>,
    _pinned: PhantomPinned,
}

#[derive(Debug)]
struct Links {
    previous: *const Node,
    next: *const Node,
}

// SAFETY: who moves a node owns it, and it is not linked then (it is pinned while it is): its links lead nowhere and are not
// followed. Of a node that is linked they are followed under the list's lock, by whichever thread has that.
unsafe impl Send for Links {}

impl Node {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            linked: AtomicBool::new(false),
            outwaited: Cell::new(false),
            waker: UnsafeCell::new(None),
            links: UnsafeCell::new(Links {
                previous: ptr::null(),
                next: ptr::null(),
            }),
            _pinned: PhantomPinned,
        }
    }

    /// Says that the node is linked nowhere, where the list has gone or goes now.
    ///
    /// # Safety
    /// Nobody will follow the list to this node any more.
    #[inline]
    pub(super) unsafe fn forget(&self) {
        self.linked.store(false, Ordering::Relaxed);
    }

    /// Only the node's owner links it, so for him `false` is final. Acquire: he may be about to free the node.
    #[inline]
    pub(super) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// # Safety
    /// The caller holds the list's lock, or `POLLING` while the flight is not shared.
    #[inline]
    pub(super) unsafe fn is_woken_by(&self, waker: &Waker) -> bool {
        // SAFETY: exclusive by contract.
        self.waker
            .with(|own| unsafe { (*own).as_ref() }.is_some_and(|own| own.will_wake(waker)))
    }

    /// Puts a waker in and gives the old one back, to be dropped where no lock is held.
    ///
    /// # Safety
    /// As [`is_woken_by`](Self::is_woken_by), or the node is the caller's own and not linked.
    #[inline]
    pub(super) unsafe fn set_waker(&self, waker: Waker) -> Option<Waker> {
        // SAFETY: exclusive by contract.
        self.waker.with_mut(|own| unsafe { (*own).replace(waker) })
    }

    /// # Safety
    /// As [`is_woken_by`](Self::is_woken_by).
    #[inline]
    unsafe fn take_waker(&self) -> Option<Waker> {
        // SAFETY: exclusive by contract.
        self.waker.with_mut(|own| unsafe { (*own).take() })
    }

    /// # Safety
    /// The lock is held.
    #[inline]
    unsafe fn links<R>(&self, change: impl FnOnce(&mut Links) -> R) -> R {
        // SAFETY: exclusive by contract.
        self.links.with_mut(|links| change(unsafe { &mut *links }))
    }
}

/// Those who wait: the ring, and the stack of those who are not in it yet. The lock of the ring stands elsewhere, where it
/// takes no room.
#[derive(Debug)]
pub(super) struct Waiting {
    newcomers: AtomicPtr<Node>,
    list: UnsafeCell<List>,
}

// SAFETY: the list is reached only through `lock`, one thread at a time.
unsafe impl Sync for Waiting {}

impl Waiting {
    #[inline]
    pub(super) fn new(list: List) -> Self {
        Self {
            newcomers: AtomicPtr::new(ptr::null_mut()),
            list: UnsafeCell::new(list),
        }
    }

    /// Has a node wait behind all others, with this waker. Gives back the waker that it had.
    ///
    /// # Safety
    /// The node is the caller's own and not linked; it stays where it is and is not freed before it is unlinked.
    #[inline]
    pub(super) unsafe fn push(&self, node: &Node, waker: Waker) -> Option<Waker> {
        // SAFETY: nobody else reaches a node that is not linked.
        let old = unsafe { node.set_waker(waker) };
        // Relaxed: whoever else reads it has found the node by the exchange below, or is its owner.
        node.linked.store(true, Ordering::Relaxed);
        let this = ptr::from_ref(node).cast_mut();
        this.expose_provenance();
        let mut newest = glance(&self.newcomers);
        loop {
            // SAFETY: nobody else reaches the node before it is on the stack.
            unsafe { node.links(|links| links.next = newest) };
            // Release: the node and its waker. Acquire: if somebody has looked here before us and found nobody, we see
            // what he had done before that, his mark in the flight's word.
            let pushed = self
                .newcomers
                .compare_exchange(newest, this, Ordering::AcqRel, Ordering::Relaxed);
            match pushed {
                Ok(_) => return old,
                Err(another) => newest = another,
            }
        }
    }

    /// The ring, with everybody in it who has come by now.
    ///
    /// # Safety
    /// `lock` is the one that this list is always taken with.
    #[inline]
    pub(super) unsafe fn lock<'a>(&'a self, lock: &'a Mutex<()>) -> impl DerefMut<Target = List> + 'a {
        let mut list = Locked {
            _lock: lock.lock(),
            list: &self.list,
        };
        // A read-modify-write even if nobody is there: it is what orders us before whoever comes later. Acquire: the
        // nodes. Release: what we did before, for those who come later.
        let newest = self.newcomers.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: who is on the stack is linked and nowhere else; the stack is ours alone now, and the lock is held.
        unsafe { list.admit(newest) };
        list
    }
}

/// The ring, under its lock `L`.
struct Locked<'a, L> {
    _lock: L,
    list: &'a UnsafeCell<List>,
}

impl<L> Deref for Locked<'_, L> {
    type Target = List;

    #[inline]
    fn deref(&self) -> &List {
        // SAFETY: the lock is held, and nothing is written through `self` while this is borrowed from it.
        self.list.with(|list| unsafe { &*list })
    }
}

impl<L> DerefMut for Locked<'_, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut List {
        // SAFETY: the lock is held, and `self` is borrowed for as long.
        self.list.with_mut(|list| unsafe { &mut *list })
    }
}

/// The ring, and who drove last.
#[derive(Debug)]
pub(super) struct List {
    front: *const Node,
    driver: *const Node,
}

// SAFETY: the pointers are followed only under the list's lock, and nodes are unlinked under that lock
// before they are freed.
unsafe impl Send for List {}

impl List {
    /// A list with nobody in it.
    #[inline]
    pub(super) fn empty() -> Self {
        Self {
            front: ptr::null(),
            driver: ptr::null(),
        }
    }

    /// A list with the leader in it, who drives.
    ///
    /// # Safety
    /// As [`push_back`](Self::push_back); nobody else knows of the node yet.
    #[inline]
    pub(super) unsafe fn of_leader(node: &Node) -> Self {
        let mut list = Self::empty();
        list.driver = node;
        // SAFETY: passed on; the list is ours alone so far.
        unsafe { list.push_back(node) };
        list
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.front.is_null()
    }

    /// Whether somebody else drives, and is still there.
    pub(super) fn has_another_driver(&self, node: &Node) -> bool {
        !self.driver.is_null() && !ptr::eq(self.driver, node)
    }

    /// Says that `node` polls the work now; answers who did before.
    pub(super) fn set_driver(&mut self, node: &Node) -> Driver {
        let before = std::mem::replace(&mut self.driver, node);
        if before.is_null() {
            Driver::Gone
        } else if ptr::eq(before, node) {
            Driver::Same
        } else {
            Driver::Another
        }
    }

    /// # Safety
    /// The node is not linked, stays where it is and is not freed before it is unlinked.
    #[inline]
    pub(super) unsafe fn push_back(&mut self, node: &Node) {
        let node: *const Node = node;
        // SAFETY: linked nodes are alive; the lock is held.
        unsafe {
            if self.front.is_null() {
                (*node).links(|links| (links.previous, links.next) = (node, node));
                self.front = node;
            } else {
                let front = self.front;
                let back = (*front).links(|links| std::mem::replace(&mut links.previous, node));
                (*back).links(|links| links.next = node);
                (*node).links(|links| (links.previous, links.next) = (back, front));
            }
            (*node).linked.store(true, Ordering::Relaxed);
        }
    }

    /// Puts newcomers behind the others, the oldest first. `newest` is the first of a chain along `next`.
    ///
    /// # Safety
    /// The nodes of the chain are linked, in this chain only, which nobody else follows.
    unsafe fn admit(&mut self, newest: *const Node) {
        if newest.is_null() {
            return;
        }
        let (mut oldest, mut younger): (_, *const Node) = (newest, ptr::null());
        // SAFETY: linked nodes are alive; the lock is held.
        unsafe {
            loop {
                let older = (*oldest).links(|links| {
                    let older = std::mem::replace(&mut links.next, younger);
                    // The address is that of a linked node; the pointer may have been made for one that was there before.
                    links.previous = ptr::with_exposed_provenance(older.addr());
                    links.previous
                });
                if older.is_null() {
                    break;
                }
                (younger, oldest) = (oldest, older);
            }
            if self.front.is_null() {
                self.front = oldest;
            }
            let front = self.front;
            // Of a chain that is the whole ring, `front` is the oldest, and `back` the newest.
            let back = if ptr::eq(front, oldest) {
                newest
            } else {
                (*front).links(|links| links.previous)
            };
            (*back).links(|links| links.next = oldest);
            (*oldest).links(|links| links.previous = back);
            (*newest).links(|links| links.next = front);
            (*front).links(|links| links.previous = newest);
        }
    }

    /// # Safety
    /// As [`push_back`](Self::push_back).
    pub(super) unsafe fn push_front(&mut self, node: &Node) {
        // SAFETY: passed on. In a ring, the front is where the pointer points.
        unsafe { self.push_back(node) };
        self.front = node;
    }

    /// Takes the node out, if it is in; the waker stays in it. A driver who goes for good says so with `leaves`.
    ///
    /// # Safety
    /// If the node is linked, then in this list.
    #[inline]
    pub(super) unsafe fn unlink(&mut self, node: &Node, leaves: Leaves) {
        if matches!(leaves, Leaves::ForGood) && ptr::eq(self.driver, node) {
            self.driver = ptr::null();
        }
        if node.linked.load(Ordering::Relaxed) {
            // SAFETY: linked in this list, the lock is held.
            unsafe { self.remove(node) };
            node.linked.store(false, Ordering::Release);
        }
    }

    /// # Safety
    /// The node is linked in this list.
    #[inline]
    unsafe fn remove(&mut self, node: *const Node) {
        // SAFETY: linked nodes are alive; the lock is held.
        unsafe {
            let (previous, next) = (*node).links(|links| (links.previous, links.next));
            if ptr::eq(next, node) {
                self.front = ptr::null();
                return;
            }
            (*previous).links(|links| links.next = next);
            (*next).links(|links| links.previous = previous);
            if ptr::eq(self.front, node) {
                self.front = next;
            }
        }
    }

    /// Takes the first node out, and its waker.
    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<Waker> {
        while !self.front.is_null() {
            // SAFETY: the front is linked.
            if let Some(waker) = unsafe { self.pop(self.front) } {
                return Some(waker);
            }
        }
        None
    }

    /// Takes out somebody to stand by for a driver whom `driver` wakes: if one is near, a caller of another task, since
    /// callers of one task are polled, or not, together.
    pub(super) fn pop_standby(&mut self, driver: &Waker) -> Option<Waker> {
        let mut candidate = self.front;
        for _ in 0..STANDBY_SEARCH {
            if candidate.is_null() {
                return None;
            }
            // SAFETY: linked, and the lock is held.
            let (same_task, next) = unsafe {
                let node = &*candidate;
                (node.is_woken_by(driver), node.links(|links| links.next))
            };
            if !same_task {
                // SAFETY: linked in this list.
                return unsafe { self.pop(candidate) };
            }
            if ptr::eq(next, self.front) {
                break;
            }
            candidate = next;
        }
        self.pop_front()
    }

    /// # Safety
    /// The node is linked in this list.
    #[inline]
    unsafe fn pop(&mut self, node: *const Node) -> Option<Waker> {
        // SAFETY: linked nodes are alive until `linked` is cleared, which is the last touch.
        unsafe {
            self.remove(node);
            let waker = (*node).take_waker();
            (*node).linked.store(false, Ordering::Release);
            waker
        }
    }
}

/// Who polled the work before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    Same,
    Another,
    Gone,
}

/// Why a node is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    ForNow,
    ForGood,
}
