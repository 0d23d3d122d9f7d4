//! Several threads: on keys of their own, on keys of a Zipf distribution, and on one hot key.
//!
//! Of one hot key, every peer is looked at before it is timed: a peer that hands out old results does not join, and is
//! not compared. On threads, a call that finds its key in flight spins until it is woken: parking a thread would cost a
//! hundred times what is measured. On a runtime it waits as tasks do.

use super::{VALUE, per};
use crate::book::Book;
use crate::contest::{Run, Trial};
use crate::key::{Key, keys};
use crate::peers::Peer;
use crate::signal::Signals;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Zipf};
use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long the threads of a round call.
const LENGTH: Duration = Duration::from_millis(20);
const DISTINCT_KEYS: usize = 512;
const ZIPF_KEYS: usize = 10_000;
/// Nearly half of all calls are for the first ten keys.
const ZIPF_EXPONENT: f64 = 1.0;
/// How long one hot key is looked at, before it is timed, for results that are no joins.
const AUDIT: Duration = Duration::from_millis(300);
/// After that long a call is taken to be stalled.
const LIMIT: Duration = Duration::from_secs(30);

/// Which keys the threads call with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Each thread has its own.
    Distinct,
    /// A few are asked for most of the time.
    Zipf,
    /// One.
    Hot,
}

/// Ready work, on so many threads each; the costs are those of a call, by the wall clock: twice the threads, half the cost.
#[derive(Clone, Copy, Debug)]
pub struct Threads<const M: usize>(pub Spread, pub [usize; M]);

impl<const M: usize> Trial<M> for Threads<M> {
    fn enter<P: Peer<String>>(&self) -> Result<Run<M>, String> {
        let Self(spread, threads) = *self;
        let peer = P::new();
        let sequences = threads.map(|threads| sequences(spread, threads));
        Ok(Box::new(move || {
            std::array::from_fn(|measure| {
                let (calls, time) = race(&peer, &sequences[measure], LENGTH);
                per(time, calls)
            })
        }))
    }

    fn objection<P: Peer<String>>(&self) -> Option<String> {
        (self.0 == Spread::Hot).then(|| audit_threads(&P::new(), self.1[0]))?
    }
}

/// Looks for old results of one hot key on so many threads.
fn audit_threads<P: Peer<String>>(peer: &P, threads: usize) -> Option<String> {
    let book = Book::leak();
    let end = Instant::now() + AUDIT;
    let audit = || {
        let signals = Signals::new(1);
        while Instant::now() < end {
            wait_for(pin!(book.call(peer, |_| 0)), &signals, P::NAME);
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(audit))));
    book.balance().wrong()
}

/// The keys of each thread, in the order in which it calls them, over and over.
fn sequences(spread: Spread, threads: usize) -> Vec<Vec<String>> {
    let of_thread = |thread: usize| match spread {
        Spread::Distinct => keys((thread * DISTINCT_KEYS) as u64, DISTINCT_KEYS),
        Spread::Hot => keys(0, 1),
        Spread::Zipf => {
            let ranks = Zipf::new(ZIPF_KEYS as f64, ZIPF_EXPONENT).expect("a distribution");
            let random = StdRng::seed_from_u64(thread as u64);
            let ranks = ranks.sample_iter(random).take(ZIPF_KEYS);
            ranks.map(|rank| String::numbered(rank as u64)).collect()
        }
    };
    (0..threads).map(of_thread).collect()
}

/// One thread for each sequence of keys, for so long; how many calls they made, and the time from the first one's start to
/// the last one's end.
fn race<P: Peer<String>>(peer: &P, sequences: &[Vec<String>], length: Duration) -> (usize, Duration) {
    let (barrier, is_over) = (Barrier::new(sequences.len() + 1), AtomicBool::new(false));
    let runs: Vec<_> = thread::scope(|scope| {
        let (barrier, is_over) = (&barrier, &is_over);
        let threads: Vec<_> = sequences
            .iter()
            .map(|keys| scope.spawn(move || run(peer, keys, barrier, is_over)))
            .collect();
        barrier.wait();
        thread::sleep(length);
        is_over.store(true, Ordering::Release);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread of callers"))
            .collect()
    });
    let calls = runs.iter().map(|(calls, _)| calls).sum();
    let start = runs.iter().map(|(_, span)| span[0]).min().expect("a thread");
    let end = runs.iter().map(|(_, span)| span[1]).max().expect("a thread");
    (calls, end - start)
}

/// The calls of one thread: how many, and from when to when.
fn run<P: Peer<String>>(peer: &P, keys: &[String], barrier: &Barrier, is_over: &AtomicBool) -> (usize, [Instant; 2]) {
    let signals = Signals::new(1);
    let mut calls = 0;
    barrier.wait();
    let start = Instant::now();
    for key in keys.iter().cycle() {
        if is_over.load(Ordering::Acquire) {
            break;
        }
        let reply = wait_for(pin!(peer.call(key.clone(), || ready(VALUE))), &signals, P::NAME);
        assert_eq!(P::outcome(reply), Ok(VALUE), "{}: another value", P::NAME);
        calls += 1;
    }
    (calls, [start, Instant::now()])
}

/// Polls a call to its end.
fn wait_for<C: Future>(mut call: Pin<&mut C>, signals: &Signals, name: &str) -> C::Output {
    let mut context = Context::from_waker(signals.waker(0));
    loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => spin_until(|| signals.take(0) > 0, name),
        }
    }
}

fn spin_until(is_woken: impl Fn() -> bool, name: &str) {
    let mut spins = 0_u32;
    let mut since = None;
    while !is_woken() {
        spins += 1;
        if spins.is_multiple_of(128) {
            // The thread that runs the work may have lost its processor.
            thread::yield_now();
            let since = since.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < LIMIT, "{name}: a caller is not woken");
        } else {
            std::hint::spin_loop();
        }
    }
}

/// One hot key on a runtime of two workers, with work that yields once, so that callers do wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct HotTasks {
    /// So many tasks.
    pub tasks: usize,
    /// Each makes so many calls, one after the other.
    pub calls: usize,
}

impl Trial for HotTasks {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let Self { tasks, calls } = *self;
        let (peer, runtime) = (P::new(), super::tasks::two_workers());
        Ok(Box::new(move || {
            [per(hot_tasks(&runtime, &peer, tasks, calls), tasks * calls)]
        }))
    }

    fn objection<P: Peer<String>>(&self) -> Option<String> {
        audit_tasks(&super::tasks::two_workers(), &P::new(), self.tasks)
    }
}

/// Looks for old results of one hot key in so many tasks.
fn audit_tasks<P: Peer<String>>(runtime: &Runtime, peer: &P, tasks: usize) -> Option<String> {
    let book = Book::leak();
    let end = Instant::now() + AUDIT;
    let peer = peer.clone();
    let all = async move {
        let spawn = |_| {
            let peer = peer.clone();
            tokio::spawn(async move {
                while Instant::now() < end {
                    book.call(&peer, |_| 1).await;
                }
            })
        };
        let tasks: Vec<_> = (0..tasks).map(spawn).collect();
        for task in tasks {
            task.await.expect("a task of calls");
        }
    };
    let all = runtime.block_on(async { timeout(LIMIT, all).await });
    all.unwrap_or_else(|_| panic!("{}: the tasks have not ended in {LIMIT:?}", P::NAME));
    book.balance().wrong()
}

/// The time until all calls of all tasks have returned.
fn hot_tasks<P: Peer<String>>(runtime: &Runtime, peer: &P, tasks: usize, calls: usize) -> Duration {
    let peer = peer.clone();
    let all = async move {
        let key: Arc<str> = String::numbered(0).into();
        let start = Instant::now();
        let spawn = |_| {
            let (peer, key) = (peer.clone(), Arc::clone(&key));
            tokio::spawn(async move {
                for _ in 0..calls {
                    let work = || async {
                        yield_now().await;
                        VALUE
                    };
                    let reply = peer.call((*key).to_owned(), work).await;
                    assert_eq!(P::outcome(reply), Ok(VALUE), "{}: another value", P::NAME);
                }
            })
        };
        let tasks: Vec<_> = (0..tasks).map(spawn).collect();
        for task in tasks {
            task.await.expect("a task of calls");
        }
        start.elapsed()
    };
    let all = runtime.spawn(async move { timeout(LIMIT, all).await });
    let all = runtime.block_on(all).expect("the task of the tasks panicked");
    all.unwrap_or_else(|_| panic!("{}: the tasks have not ended in {LIMIT:?}", P::NAME))
}
