//! Followers as real tasks on a runtime of two workers, from the spawning of the first to the end of the last.

use super::{VALUE, per};
use crate::contest::{Run, Trial};
use crate::gate::Gate;
use crate::key::Key;
use crate::peers::Peer;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

/// After that long the tasks are taken to be stalled.
const LIMIT: Duration = Duration::from_secs(60);

/// That many followers of one flight; the cost is that of one.
#[derive(Clone, Copy, Debug)]
pub struct Tasks(pub usize);

impl Trial for Tasks {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let followers = self.0;
        let (peer, runtime, gate) = (P::new(), two_workers(), Gate::leak());
        Ok(Box::new(move || {
            let time = fly(&runtime, &peer, gate, followers);
            [time.map_or(f64::NAN, |time| per(time, followers))]
        }))
    }
}

/// A runtime of two workers.
pub fn two_workers() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime of two workers")
}

/// One flight with that many followers. The last one to be pending lets the work through. Nothing if more than one ran.
fn fly<P: Peer<String>>(runtime: &Runtime, peer: &P, gate: &'static Gate, followers: usize) -> Option<Duration> {
    let peer = peer.clone();
    gate.reset();
    let flight = async move {
        let key = String::numbered(0);
        let leader = tokio::spawn(call(peer.clone(), key.clone(), gate));
        while gate.begun() == 0 {
            yield_now().await;
        }
        let pending = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::with_capacity(followers);
        let start = Instant::now();
        for _ in 0..followers {
            let call = call(peer.clone(), key.clone(), gate);
            tasks.push(tokio::spawn(Follower {
                call,
                crowd: Some((Arc::clone(&pending), followers)),
                gate,
            }));
        }
        for task in tasks {
            task.await.expect("a follower");
        }
        leader.await.expect("the leader");
        start.elapsed()
    };
    let flight = runtime.spawn(async move { timeout(LIMIT, flight).await });
    let flight = runtime.block_on(flight).expect("the task of the flight panicked");
    let time = flight
        .map(Some)
        .unwrap_or_else(|_| panic!("{}: {followers} tasks have not ended in {LIMIT:?}", P::NAME));
    if gate.begun() == 1 { time } else { None }
}

/// A call as a task makes it, with a handle and a key of his own.
pub(super) async fn call<P: Peer<String>>(peer: P, key: String, gate: &'static Gate) {
    let reply = peer.call(key, gate.work(VALUE, 1)).await;
    assert_eq!(P::outcome(reply), Ok(VALUE), "{}: another value", P::NAME);
}

pin_project! {
    /// A follower, who opens the gate if he is the last one to be pending.
    pub(super) struct Follower<C> {
        #[pin]
        pub(super) call: C,
        // How many are pending, and how many there will be; until he is.
        pub(super) crowd: Option<(Arc<AtomicUsize>, usize)>,
        pub(super) gate: &'static Gate,
    }
}

impl<C: Future> Future for Follower<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.project();
        let polled = this.call.poll(cx);
        if let Some((pending, all)) = this.crowd.take() {
            // Whoever is ready before the work was let through leaves the gate shut: the round fails for its time.
            if polled.is_pending() && pending.fetch_add(1, Ordering::AcqRel) + 1 == all {
                this.gate.step();
            }
        }
        polled
    }
}
