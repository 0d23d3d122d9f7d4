//! The callers who wait: an intrusive ring of nodes that live in the callers' own pinned futures, so that waiting
//! allocates nothing.
//!
//! A node is linked exactly while it waits: its waker is taken out only together with the node. One exception: the
//! leader's node is linked from birth, and while nobody has joined its waker is the affair of whoever has `POLLING`.
//! At the front stands the driver (the caller who polled the work last), then the others in the order in which they
//! came. All functions ask for the list's lock to be held; the list lives inside it.

use crate::sync::{AtomicBool, UnsafeCell};
use std::marker::PhantomPinned;
use std::ptr;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// How many callers behind the driver are looked at for one that another task polls.
const STANDBY_SEARCH: usize = 8;

/// A caller's place in the list.
#[derive(Debug)]
pub(super) struct Node {
    /// Written under the lock. Whoever clears it does so last and never touches the node again, so a caller who reads
    /// `false` without the lock may free his node.
    linked: AtomicBool,
    waker: UnsafeCell<Option<Waker>>,
    links: UnsafeCell<Links>,
    _pinned: PhantomPinned,
}

#[derive(Debug)]
struct Links {
    previous: *const Node,
    next: *const Node,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            linked: AtomicBool::new(false),
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
    pub(super) unsafe fn forget(&self) {
        self.linked.store(false, Ordering::Relaxed);
    }

    /// Only the node's owner links it, so for him `false` is final. Acquire: he may be about to free the node.
    pub(super) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// # Safety
    /// The caller holds the list's lock, or `POLLING` while the flight is not shared.
    pub(super) unsafe fn is_woken_by(&self, waker: &Waker) -> bool {
        // SAFETY: exclusive by contract.
        self.waker
            .with(|own| unsafe { (*own).as_ref() }.is_some_and(|own| own.will_wake(waker)))
    }

    /// Puts a waker in and gives the old one back, to be dropped where no lock is held.
    ///
    /// # Safety
    /// As [`is_woken_by`](Self::is_woken_by).
    pub(super) unsafe fn set_waker(&self, waker: Waker) -> Option<Waker> {
        // SAFETY: exclusive by contract.
        self.waker.with_mut(|own| unsafe { (*own).replace(waker) })
    }

    /// # Safety
    /// As [`is_woken_by`](Self::is_woken_by).
    unsafe fn take_waker(&self) -> Option<Waker> {
        // SAFETY: exclusive by contract.
        self.waker.with_mut(|own| unsafe { (*own).take() })
    }

    /// # Safety
    /// The lock is held.
    unsafe fn links<R>(&self, change: impl FnOnce(&mut Links) -> R) -> R {
        // SAFETY: exclusive by contract.
        self.links.with_mut(|links| change(unsafe { &mut *links }))
    }
}

/// The ring, and who drove last.
#[derive(Debug)]
pub(super) struct List {
    front: *const Node,
    driver: *const Node,
}

// SAFETY: the pointers are followed only under the lock that the list lives in, and nodes are unlinked under that lock
// before they are freed.
unsafe impl Send for List {}

impl List {
    /// A list with nobody in it.
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
    pub(super) unsafe fn of_leader(node: &Node) -> Self {
        let mut list = Self::empty();
        list.driver = node;
        // SAFETY: passed on; the list is ours alone so far.
        unsafe { list.push_back(node) };
        list
    }

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
