//! What the tests share: futures polled by hand, and work that counts.
#![allow(dead_code, reason = "each test uses its part")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// A waker that counts how often it is woken.
#[derive(Default)]
pub struct Counter(AtomicUsize);

impl Counter {
    pub fn new() -> (Arc<Self>, Waker) {
        let counter = Arc::new(Self::default());
        (Arc::clone(&counter), Waker::from(counter))
    }

    pub fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A future on the heap that is polled by hand, with a waker of its own: a task.
pub struct Task<F: Future> {
    future: Option<Pin<Box<F>>>,
    wakes: Arc<Counter>,
    waker: Waker,
}

impl<F: Future> Task<F> {
    pub fn new(future: F) -> Self {
        let (wakes, waker) = Counter::new();
        Self {
            future: Some(Box::pin(future)),
            wakes,
            waker,
        }
    }

    /// A future that shares the waker of another: in the same task.
    pub fn beside<G: Future>(other: &Task<G>, future: F) -> Self {
        Self {
            future: Some(Box::pin(future)),
            wakes: Arc::clone(&other.wakes),
            waker: other.waker.clone(),
        }
    }

    pub fn poll(&mut self) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("the task was dropped");
        future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    pub fn pending(&mut self) {
        assert!(self.poll().is_pending(), "the task was ready");
    }

    pub fn ready(&mut self) -> F::Output {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("the task was pending"),
        }
    }

    pub fn wakes(&self) -> usize {
        self.wakes.get()
    }

    pub fn drop(&mut self) {
        self.future = None;
    }
}

/// Polls tasks that were woken until all are ready; panics if none is woken although one is pending: a lost
/// wake-up.
pub fn run_all<F: Future>(tasks: Vec<Task<F>>) -> Vec<F::Output> {
    let mut open: Vec<(usize, usize, Task<F>)> = Vec::new();
    let mut done = Vec::new();
    for (index, mut task) in tasks.into_iter().enumerate() {
        let seen = task.wakes();
        match task.poll() {
            Poll::Ready(output) => done.push((index, output)),
            Poll::Pending => open.push((index, seen, task)),
        }
    }
    while !open.is_empty() {
        let woken = open.iter().position(|(_, seen, task)| task.wakes() > *seen);
        let (index, _, mut task) = open.swap_remove(woken.expect("everybody waits and nobody is woken"));
        let seen = task.wakes();
        match task.poll() {
            Poll::Ready(output) => done.push((index, output)),
            Poll::Pending => open.push((index, seen, task)),
        }
    }
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, output)| output).collect()
}

/// What work waits for in tests: each pass lets one await through.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<(usize, Option<Waker>)>>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets so many awaits through.
    pub fn open(&self, passes: usize) {
        let waker = {
            let mut gate = self.0.lock().unwrap();
            gate.0 += passes;
            gate.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub async fn pass(&self) {
        std::future::poll_fn(|cx| {
            let mut gate = self.0.lock().unwrap();
            if gate.0 > 0 {
                gate.0 -= 1;
                return Poll::Ready(());
            }
            gate.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Pending once; wakes itself.
pub async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Counts what happens in work.
#[derive(Clone, Default)]
pub struct Tally(Arc<AtomicUsize>);

impl Tally {
    pub fn add(&self) -> usize {
        self.0.fetch_add(1, SeqCst) + 1
    }

    pub fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// Counts its drop.
pub struct CountsDrop(pub Tally);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}
