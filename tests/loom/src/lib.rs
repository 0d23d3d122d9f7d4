//! What the models in `tests/` share. `bin/loom` runs them.
#![cfg(oneflight_loom)]

use loom::future::AtomicWaker;
use loom::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

/// The number of preemptions that an execution of a model may have, in the short form and in the long one (`ONEFLIGHT_LONG`).
/// `None` is any number, so that the search is exhaustive.
#[derive(Clone, Copy)]
pub struct Bound {
    /// With loads that may be stale.
    pub any: [Option<usize>; 2],
    /// With loads that read the newest value. Each of them is a branch.
    pub newest: [Option<usize>; 2],
}

impl Bound {
    pub const NONE: Self = Self {
        any: [None; 2],
        newest: [None; 2],
    };
}

/// Makes the bound `short` of the short form, and those of the long form for loads that may be stale (`any`) and `newest` ones.
pub const fn upto(short: usize, any: usize, newest: usize) -> Bound {
    Bound {
        any: [Some(short), Some(any)],
        newest: [Some(short), Some(newest)],
    }
}

/// Explores `model` and prints the number of executions. `LOOM_MAX_PREEMPTIONS` overrides the bound.
pub fn explore(name: &str, bound: Bound, model: impl Fn() + Sync + Send + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    let newest = std::env::var("ONEFLIGHT_LOADS").is_ok_and(|loads| loads == "newest");
    let form = usize::from(std::env::var_os("ONEFLIGHT_LONG").is_some());
    let bound = if newest { bound.newest } else { bound.any }[form];
    builder.preemption_bound = builder.preemption_bound.or(bound);
    // Loom would just return when they are reached.
    assert!(
        builder.max_duration.is_none() && builder.max_permutations.is_none(),
        "with LOOM_MAX_DURATION or LOOM_MAX_PERMUTATIONS a model is not searched to its end: unset them"
    );
    let bound = builder.preemption_bound;
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    let executions = executions.load(Relaxed);
    let loads = if newest { "newest" } else { "any" };
    match bound {
        Some(bound) => println!("{name}: {executions} executions, at most {bound} preemptions each, loads: {loads}"),
        None => println!("{name}: {executions} executions, exhaustive, loads: {loads}"),
    }
    assert!(executions > 1, "a model with one execution explores nothing");
}

/// An event that work waits for. Loom sees both sides of it.
#[derive(Clone)]
pub struct Gate(Arc<(AtomicBool, AtomicWaker)>);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new((AtomicBool::new(false), AtomicWaker::new())))
    }

    pub fn open(&self) {
        self.0.0.store(true, SeqCst);
        self.0.1.wake();
    }

    pub fn opened(&self) -> Opened {
        Opened(self.clone())
    }
}

pub struct Opened(Gate);

impl Future for Opened {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (open, waker) = &*self.0.0;
        waker.register_by_ref(cx.waker());
        if open.load(SeqCst) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Is pending once and wakes itself, as a task that yields does.
pub struct YieldOnce(bool);

impl YieldOnce {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(false)
    }
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Counts executions, drops of work, clones and drops of values. Loom does not see the counts.
#[derive(Default)]
pub struct Ledger {
    pub begun: AtomicUsize,
    pub dropped: AtomicUsize,
    pub values_made: AtomicUsize,
    pub values_dropped: AtomicUsize,
}

impl Ledger {
    /// Begins an execution. Execution number n returns value n.
    pub fn begin(self: &Arc<Self>) -> Execution {
        Execution {
            number: self.begun.fetch_add(1, Relaxed) + 1,
            ledger: Arc::clone(self),
        }
    }

    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// Checks that all work and values that were made have been dropped once.
    pub fn check(&self) {
        assert_eq!(
            self.begun.load(Relaxed),
            self.dropped.load(Relaxed),
            "work dropped once each"
        );
        assert_eq!(
            self.values_made.load(Relaxed),
            self.values_dropped.load(Relaxed),
            "values dropped once each"
        );
    }
}

/// Is part of the work, and dropped with it.
pub struct Execution {
    number: usize,
    ledger: Arc<Ledger>,
}

impl Execution {
    pub fn value(&self) -> Value {
        self.ledger.values_made.fetch_add(1, Relaxed);
        Value {
            number: self.number,
            ledger: Arc::clone(&self.ledger),
        }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.ledger.dropped.fetch_add(1, Relaxed);
    }
}

/// The value of an execution.
pub struct Value {
    pub number: usize,
    ledger: Arc<Ledger>,
}

impl Clone for Value {
    fn clone(&self) -> Self {
        self.ledger.values_made.fetch_add(1, Relaxed);
        Self {
            number: self.number,
            ledger: Arc::clone(&self.ledger),
        }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.ledger.values_dropped.fetch_add(1, Relaxed);
    }
}

/// Polls `future` once, with a waker that wakes nothing. The future is kept, as one whose task is not polled.
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Nobody));
    future.poll(&mut Context::from_waker(&waker))
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// Polls `future` once, with a waker that wakes nothing, and drops it.
pub fn poll_once_and_drop<F: Future>(future: F) -> Option<F::Output> {
    match poll_once(pin!(future)) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
