//! The work of most cases: it stands at a gate until it is let through, one step at a time, so that every caller can be
//! seen to wait before it ends.
//!
//! It is 64 bytes large, and so is the closure that makes it, since what work needs is captured first. It counts how often it was begun (by its first poll, not by its being made, since some peers have
//! every caller make one), how often it came to its end, and how often it was dropped in between.

use futures::task::AtomicWaker;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Where the work of one flight at a time stands.
#[derive(Debug, Default)]
pub struct Gate {
    /// How many steps have been let through.
    open: AtomicU64,
    made: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    cancelled: AtomicU64,
    waker: AtomicWaker,
}

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its value.
    Value,
    /// With a panic.
    Panic,
}

/// The message with which work panics.
pub const PANIC: &str = "the work fell over";

impl Gate {
    /// A gate for the rest of the program: work may outlive the caller that began it.
    pub fn leak() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Many gates for the rest of the program.
    pub fn leak_many(count: usize) -> &'static [Self] {
        Vec::leak((0..count).map(|_| Self::default()).collect())
    }

    /// Closes the gate, for the next flight.
    pub fn reset(&self) {
        for count in [&self.open, &self.made, &self.begun, &self.ended, &self.cancelled] {
            count.store(0, Ordering::Relaxed);
        }
        self.waker.take();
    }

    /// What makes work that ends after that many steps with this value.
    #[inline]
    pub fn work(&'static self, value: u64, steps: u64) -> impl FnOnce() -> Work + Send + 'static {
        self.work_that_ends(End::Value, value, steps)
    }

    /// What makes work that ends after that many steps, in one way or the other.
    #[inline]
    pub fn work_that_ends(&'static self, end: End, value: u64, steps: u64) -> impl FnOnce() -> Work + Send + 'static {
        let load = [0; 4];
        let make = move || {
            // Plain steps: a locked one, for every caller of a peer that has each make its work, would be charged to the peer.
            self.made
                .store(self.made.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            Work {
                gate: self,
                value,
                steps,
                end,
                stage: Stage::Made,
                _load: load,
            }
        };
        debug_assert_eq!(size_of_val(&make), SIZE);
        make
    }

    /// Lets the work take one step, and wakes it.
    pub fn step(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.waker.wake();
    }

    /// How often work was made; exact only if one thread makes it.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// How often work was begun.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// How often work came to its end.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// How often work was dropped after it had begun and before it ended.
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Acquire)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Made,
    Begun,
    Ended,
}

/// Work that stands at a gate.
#[derive(Debug)]
pub struct Work {
    gate: &'static Gate,
    value: u64,
    steps: u64,
    end: End,
    stage: Stage,
    /// What it would carry with it.
    _load: [u64; 4],
}

/// The size of work, and of the closure that makes it.
const SIZE: usize = 64;

const _: () = assert!(size_of::<Work>() == SIZE);

impl Future for Work {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let gate = self.gate;
        if self.stage == Stage::Made {
            self.stage = Stage::Begun;
            gate.begun.fetch_add(1, Ordering::AcqRel);
        }
        if gate.open.load(Ordering::Acquire) < self.steps {
            gate.waker.register(cx.waker());
            // It may have been let through before the waker was there.
            if gate.open.load(Ordering::Acquire) < self.steps {
                return Poll::Pending;
            }
        }
        self.stage = Stage::Ended;
        gate.ended.fetch_add(1, Ordering::AcqRel);
        match self.end {
            End::Value => Poll::Ready(self.value),
            End::Panic => panic!("{PANIC}"),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.stage == Stage::Begun {
            self.gate.cancelled.fetch_add(1, Ordering::AcqRel);
        }
    }
}
