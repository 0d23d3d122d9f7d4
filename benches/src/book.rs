//! A book on one hot key, in which every execution has a number, which is its result.
//!
//! A result is *old* if its call had begun when another one had already returned with that execution, or with a later one:
//! it is a hit in a cache, not a join. A key runs *beside itself* if an execution begins while another one is under way.

use crate::key::Key;
use crate::peers::{Peer, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::yield_now;

/// What is written down while calls are made.
#[derive(Debug, Default)]
pub struct Book {
    runs: AtomicU64,
    running: AtomicU64,
    beside: AtomicU64,
    /// The latest execution that any call has returned with.
    returned: AtomicU64,
    calls: AtomicU64,
    old: AtomicU64,
    errors: AtomicU64,
}

/// What is in a book at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Calls that have returned.
    pub calls: u64,
    /// Executions that were begun.
    pub runs: u64,
    /// Calls that returned with an old result.
    pub old: u64,
    /// Executions that began while another was under way.
    pub beside: u64,
    /// Calls that returned with an error, or panicked.
    pub errors: u64,
}

impl Book {
    /// A book for the rest of the program: work may outlive the caller that began it.
    pub fn leak() -> &'static Self {
        Box::leak(Box::default())
    }

    /// One call, whose work yields as often as `steps` says for its execution.
    pub async fn call<P: Peer<String>>(&'static self, peer: &P, steps: fn(Value) -> u64) {
        let returned = self.returned.load(Ordering::SeqCst);
        let outcome = P::outcome(peer.call(String::numbered(0), move || self.work(steps)).await);
        self.calls.fetch_add(1, Ordering::SeqCst);
        match outcome {
            Ok(run) => {
                self.returned.fetch_max(run, Ordering::SeqCst);
                self.old.fetch_add(u64::from(run <= returned), Ordering::SeqCst);
            }
            Err(_) => self.error(),
        }
    }

    /// Writes down that a call panicked.
    pub fn error(&self) {
        self.errors.fetch_add(1, Ordering::SeqCst);
    }

    async fn work(&self, steps: fn(Value) -> u64) -> Value {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        if self.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.beside.fetch_add(1, Ordering::SeqCst);
        }
        for _ in 0..steps(run) {
            yield_now().await;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        run
    }

    /// What has been written down.
    pub fn balance(&self) -> Balance {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Balance {
            calls: read(&self.calls),
            runs: read(&self.runs),
            old: read(&self.old),
            beside: read(&self.beside),
            errors: read(&self.errors),
        }
    }
}

impl Balance {
    /// What is wrong, if anything is.
    pub fn wrong(&self) -> Option<String> {
        let old = || match 100.0 * self.old as f64 / self.calls as f64 {
            share if share < 0.01 => format!("{} of {} results are old", self.old, self.calls),
            share => format!("{share:.2} % of the results are old"),
        };
        let beside = || format!("the key runs beside itself: {} times", self.beside);
        let errors = || format!("{} errors", self.errors);
        let all = [
            (self.old > 0).then(old),
            (self.beside > 0).then(beside),
            (self.errors > 0).then(errors),
        ];
        let wrong: Vec<String> = all.into_iter().flatten().collect();
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }
}
