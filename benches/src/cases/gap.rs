//! What another task notices when a huge fan-in ends: the longest time between two of its polls, and the longest time
//! that any single poll held a worker. The second is the library's own; the first also has the runtime's queue in it,
//! in which the other task stands behind all tasks that were woken.

use super::VALUE;
use super::tasks::{Joining, LIMIT, QUIET, call, two_workers};
use crate::contest::{Run, Trial};
use crate::gate::Gate;
use crate::key::Key;
use crate::peers::Peer;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// On which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The one thread that everything runs on.
    One,
    /// Two workers.
    Two,
}

/// That many followers as tasks. The costs, in milliseconds, are the longest gap and the longest poll.
#[derive(Clone, Copy, Debug)]
pub struct Gap(pub Workers, pub usize);

impl Trial<2> for Gap {
    fn enter<P: Peer<String>>(&self) -> Result<Run<2>, String> {
        let Self(workers, followers) = *self;
        let runtime = match workers {
            Workers::One => Builder::new_current_thread().enable_time().build(),
            Workers::Two => Ok(two_workers()),
        };
        let runtime = runtime.expect("a runtime");
        let (peer, gate) = (P::new(), Gate::leak());
        Ok(Box::new(move || fly(&runtime, &peer, gate, followers)))
    }
}

fn fly<P: Peer<String>>(runtime: &Runtime, peer: &P, gate: &'static Gate, followers: usize) -> [f64; 2] {
    let peer = peer.clone();
    gate.reset();
    let flight = async move {
        let key = String::numbered(0);
        let longest_poll = Arc::new(AtomicU64::new(0));
        let crowd = Arc::<Joining>::default();
        let spawn = || {
            crowd.spawn(Timed {
                call: call(peer.clone(), key.clone(), gate.work(VALUE, 1)),
                longest: Arc::clone(&longest_poll),
            })
        };
        let leader = spawn();
        while gate.begun() == 0 {
            yield_now().await;
        }
        let tasks: Vec<_> = (0..followers).map(|_| spawn()).collect();
        let mut before = crowd.progress();
        loop {
            sleep(QUIET).await;
            let now = crowd.progress();
            if now.0 == 1 + followers && now == before {
                break;
            }
            before = now;
        }

        let has_ended = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(longest_gap(Arc::clone(&has_ended)));
        // The caller is on its way before it begins, and polls while joining do not count.
        for _ in 0..100 {
            yield_now().await;
        }
        longest_poll.store(0, Ordering::Release);
        gate.step();
        for task in tasks {
            task.await.expect("a follower");
        }
        leader.await.expect("the leader");
        has_ended.store(true, Ordering::Release);
        let gap = watch.await.expect("the other task panicked");
        [gap, Duration::from_nanos(longest_poll.load(Ordering::Acquire))].map(|time| time.as_secs_f64() * 1e3)
    };
    let flight = runtime.spawn(async move { timeout(LIMIT, flight).await });
    let flight = runtime.block_on(flight).expect("the task of the flight panicked");
    let figures = flight.unwrap_or_else(|_| panic!("{}: {followers} tasks have not ended in {LIMIT:?}", P::NAME));
    assert_eq!(gate.begun(), 1, "{}: the work ran more than once", P::NAME);
    figures
}

/// Wants to be polled all the time, and says how long it had to wait.
async fn longest_gap(has_ended: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while !has_ended.load(Ordering::Acquire) {
        yield_now().await;
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

pin_project! {
    /// A call whose longest poll is kept.
    struct Timed<C> {
        #[pin]
        call: C,
        longest: Arc<AtomicU64>,
    }
}

impl<C: Future> Future for Timed<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.project();
        let start = Instant::now();
        let polled = this.call.poll(cx);
        let nanos = start.elapsed().as_nanos() as u64;
        if nanos > this.longest.load(Ordering::Relaxed) {
            this.longest.fetch_max(nanos, Ordering::AcqRel);
        }
        polled
    }
}
