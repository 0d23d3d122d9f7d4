//! A waker of its own for every caller, as real tasks have them, and the count of what woke it.
//!
//! It does the least that a waker can do. It is never lost, from whichever thread it is woken; the count is exact only if one thread wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Wake, Waker};

/// What a caller's waker sets.
#[derive(Debug, Default)]
pub struct Signal(AtomicU32);

impl Signal {
    /// How often the caller was woken since this was last asked.
    pub fn take(&self) -> u32 {
        match self.0.load(Ordering::Acquire) {
            0 => 0,
            _ => self.0.swap(0, Ordering::AcqRel),
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Two plain steps: a locked one would be as dear as what is measured.
        let wakes = self.0.load(Ordering::Relaxed);
        self.0.store(wakes + 1, Ordering::Release);
    }
}

/// The signals of many callers, with a waker for each, made before anything is timed.
#[derive(Debug)]
pub struct Signals {
    signals: Vec<Arc<Signal>>,
    wakers: Vec<Waker>,
}

impl Signals {
    /// Signals for that many callers.
    pub fn new(callers: usize) -> Self {
        let signals: Vec<Arc<Signal>> = (0..callers).map(|_| Arc::default()).collect();
        let wakers = signals.iter().cloned().map(Waker::from).collect();
        Self { signals, wakers }
    }

    /// For how many callers they are.
    pub fn count(&self) -> usize {
        self.signals.len()
    }

    /// The waker of one caller.
    pub fn waker(&self, caller: usize) -> &Waker {
        &self.wakers[caller]
    }

    /// How often one caller was woken since this was last asked.
    pub fn take(&self, caller: usize) -> u32 {
        self.signals[caller].take()
    }
}
