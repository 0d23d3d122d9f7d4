//! The waiting callers: an intrusive ring of nodes that are part of the callers' own pinned futures, so that waiting allocates
//! nothing.
//!
//! A node is linked exactly while it waits: its waker is taken out only together with the node. One exception: the leader's
//! node is linked from the beginning, and until a caller joins, its waker belongs to the holder of `POLLING`. At the front
//! stands the driver (the caller that polled the work last), then the others in the order in which they came. All functions
//! of the list require that its lock is held.
//!
//! A caller that comes to wait takes no lock: it pushes its node on a stack of newcomers (R. K. Treiber, *Systems Programming:
//! Coping with Parallelism*, IBM RJ 5118, 1986) by one compare-exchange. Taking the lock includes taking the whole stack, so
//! under the lock the only newcomers are those that come meanwhile. No single node is taken off the stack, so an address that
//! is used again does no harm there. Since the exchange compares addresses, the pointer to the next node is made anew from its
//! address when it is followed.

use crate::sync::{AtomicBool, AtomicPtr, Mutex, UnsafeCell, glance};
use std::cell::Cell;
use std::marker::PhantomPinned;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// The number of callers behind the driver that are searched for one that another task polls.
const STANDBY_SEARCH: usize = 8;

/// A caller's place in the list.
#[derive(Debug)]
pub(super) struct Node {
    /// Set by the node's owner, cleared under the lock. Clearing it is the last access to the node, so an owner that reads
    /// `false` without the lock may free the node.
    linked: AtomicBool,
    /// A note of the node's owner: it has given the flight's task the chance to come, and the task had not come by then. Only
    /// the owner uses it; it stands here because there is room.
    pub(super) outwaited: Cell<bool>,
    /// Another one: it has just joined, and it was noted then where it is polled.
    pub(super) looked: Cell<bool>,
    waker: UnsafeCell<Option<Waker>>,
    links: UnsafeCell<Links>,
    _pinned: PhantomPinned,
}

#[derive(Debug)]
struct Links {
    previous: *const Node,
    next: *const Node,
}

// SAFETY: a node is moved only by its owner and while it is not linked (a linked node is pinned). Its links lead nowhere then,
// and are not followed. The links of a linked node are followed only by the thread that holds the list's lock.
unsafe impl Send for Links {}

impl Node {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            linked: AtomicBool::new(false),
            outwaited: Cell::new(false),
            looked: Cell::new(false),
            waker: UnsafeCell::new(None),
            links: UnsafeCell::new(Links {
                previous: ptr::null(),
                next: ptr::null(),
            }),
            _pinned: PhantomPinned,
        }
    }

    /// Marks the node as not linked, because its list is gone or about to go.
    ///
    /// # Safety
    /// The list is not followed to this node any more.
    #[inline]
    pub(super) unsafe fn forget(&self) {
        self.linked.store(false, Ordering::Relaxed);
    }

    /// Returns whether the node is in a list. Only its owner links it, so for the owner `false` is final. Acquire: the owner may
    /// be about to free the node.
    #[inline]
    pub(super) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Returns whether the node's waker wakes the same task as `waker`.
    ///
    /// # Safety
    /// The list's lock is held, or `POLLING` while the flight is not shared.
    #[inline]
    pub(super) unsafe fn is_woken_by(&self, waker: &Waker) -> bool {
        // SAFETY: exclusive by contract.
        self.waker
            .with(|own| unsafe { (*own).as_ref() }.is_some_and(|own| own.will_wake(waker)))
    }

    /// Puts a waker in and returns the old one, to be dropped where no lock is held.
    ///
    /// # Safety
    /// As [`is_woken_by`](Self::is_woken_by), or the code that calls this owns the node, which is not linked.
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

/// The waiting callers: the ring, and the stack of those that are not in it yet. The lock of the ring stands elsewhere, where
/// it takes no room.
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

    /// Puts a node behind all others, with this waker. Returns the waker that it had.
    ///
    /// # Safety
    /// The code that calls this owns the node, which is not linked. The node is not moved or freed before it is unlinked.
    #[inline]
    pub(super) unsafe fn push(&self, node: &Node, waker: Waker) -> Option<Waker> {
        // SAFETY: only its owner reaches a node that is not linked.
        let old = unsafe { node.set_waker(waker) };
        // Relaxed: it is read by the owner, or by code that has found the node by way of the exchange below.
        node.linked.store(true, Ordering::Relaxed);
        let this = ptr::from_ref(node).cast_mut();
        this.expose_provenance();
        let mut newest = glance(&self.newcomers);
        loop {
            // SAFETY: only its owner reaches the node before it is on the stack.
            unsafe { node.links(|links| links.next = newest) };
            // Release: publishes the node and its waker. Acquire: a waker that has looked here before us, and found no node, had
            // set its mark in the flight's word before that; we see the mark.
            let pushed = self
                .newcomers
                .compare_exchange(newest, this, Ordering::AcqRel, Ordering::Relaxed);
            match pushed {
                Ok(_) => return old,
                Err(another) => newest = another,
            }
        }
    }

    /// Locks the ring, and puts in all callers that have come by now.
    ///
    /// # Safety
    /// `lock` is the one that this list is always taken with.
    #[inline]
    pub(super) unsafe fn lock<'a>(&'a self, lock: &'a Mutex<()>) -> impl DerefMut<Target = List> + 'a {
        let mut list = Locked {
            _lock: lock.lock(),
            list: &self.list,
        };
        // A read-modify-write even if there are no newcomers: it orders us before every caller that comes later. Acquire:
        // the nodes. Release: what we did before, for callers that come later.
        let newest = self.newcomers.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: nodes on the stack are linked there and nowhere else. The stack is ours alone now, and the lock is held.
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
        // SAFETY: the lock is held, and the list is not written while this is borrowed from `self`.
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

/// The ring, and the driver.
#[derive(Debug)]
pub(super) struct List {
    front: *const Node,
    driver: *const Node,
}

// SAFETY: the pointers are followed only under the list's lock, and nodes are unlinked under that lock before they are freed.
unsafe impl Send for List {}

impl List {
    /// Returns an empty list.
    #[inline]
    pub(super) fn empty() -> Self {
        Self {
            front: ptr::null(),
            driver: ptr::null(),
        }
    }

    /// Returns a list of the leader, which is the driver.
    ///
    /// # Safety
    /// As [`push_back`](Self::push_back). No other thread reaches the node yet.
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

    /// Returns whether another caller is the driver, and has not left.
    pub(super) fn has_another_driver(&self, node: &Node) -> bool {
        !self.driver.is_null() && !ptr::eq(self.driver, node)
    }

    /// Makes `node` the driver; returns which one was the driver before.
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

    /// Puts the node behind the others.
    ///
    /// # Safety
    /// The node is not linked, and is not moved or freed before it is unlinked.
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

    /// Puts newcomers behind the others, the oldest first. `newest` is the first of a chain along `next`, or null.
    ///
    /// # Safety
    /// The nodes of the chain are linked, in this chain only, which no other thread follows.
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
                    // The address is that of a linked node. The pointer may have been made for an earlier node at this address.
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
            // If the chain is the whole ring, `front` is the oldest and `back` the newest.
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

    /// Puts the node before the others.
    ///
    /// # Safety
    /// As [`push_back`](Self::push_back).
    pub(super) unsafe fn push_front(&mut self, node: &Node) {
        // SAFETY: passed on. The back of a ring becomes its front by moving the pointer.
        unsafe { self.push_back(node) };
        self.front = node;
    }

    /// Takes the node out, if it is linked. Its waker stays in it. With [`Leaves::ForGood`], the driver stops being it.
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

    /// Takes the first node out, and returns its waker.
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

    /// Takes out a caller to stand by for the driver, whose waker is `driver`. It takes a caller of another task if one is
    /// near, since callers of the same task are polled, or not polled, together.
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
        // SAFETY: linked nodes are alive until `linked` is cleared, which is the last access.
        unsafe {
            self.remove(node);
            let waker = (*node).take_waker();
            (*node).linked.store(false, Ordering::Release);
            waker
        }
    }
}

/// Which caller was the driver before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    Same,
    Another,
    Gone,
}

/// Whether a caller whose node is taken out goes on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    ForNow,
    ForGood,
}
