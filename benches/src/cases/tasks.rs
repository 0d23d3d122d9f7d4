//! Followers as real tasks on a runtime of two workers, from the spawning of the first to the end of the last, less the
//! pause in which every task waits. Each task is an `async fn` around its call, which owns key and work, as a service's handler
//! does: so whatever a peer does before its first poll, it carries what it was given, and is as large as that.
//!
//! A task that is pending need not have joined: some peers keep their map behind an asynchronous lock, for which it may
//! wait. So the gate is opened when all are pending and none has been polled for a while.

use super::{VALUE, per};
use crate::contest::{Run, Trial};
use crate::gate::Gate;
use crate::key::Key;
use crate::peers::{Peer, Value};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

/// After that long the tasks are taken to be stalled.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// A caller that is not polled for so long has joined.
pub(super) const QUIET: Duration = Duration::from_millis(10);
/// How often it is looked at whether a caller is polled.
const SAMPLE: Duration = Duration::from_micros(100);

/// That many followers of one flight; the cost is that of one.
#[derive(Clone, Copy, Debug)]
pub struct Tasks(pub usize);

impl Trial for Tasks {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let followers = self.0;
        let (peer, runtime, gate) = (P::new(), two_workers(), Gate::leak());
        Ok(Box::new(move || {
            let time = fly(&runtime, &peer, gate, followers);
            [per(time, followers)]
        }))
    }
}

/// A runtime of two workers.
pub fn two_workers() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime of two workers")
}

/// One flight with that many followers.
fn fly<P: Peer<String>>(runtime: &Runtime, peer: &P, gate: &'static Gate, followers: usize) -> Duration {
    let peer = peer.clone();
    gate.reset();
    let crowd = Arc::<Joining>::default();
    let joining = Arc::clone(&crowd);
    let (start, all) = run(runtime, async move {
        let leader = joining.spawn(call(peer.clone(), String::numbered(0), gate.work(VALUE, 1)));
        while gate.begun() == 0 {
            yield_now().await;
        }
        let start = Instant::now();
        let mut tasks = Vec::with_capacity(1 + followers);
        tasks.push(leader);
        for _ in 0..followers {
            tasks.push(joining.spawn(call(peer.clone(), String::numbered(0), gate.work(VALUE, 1))));
        }
        let all = tokio::spawn(async move {
            for task in tasks {
                task.await.expect("a caller");
            }
            Instant::now()
        });
        (start, all)
    });
    let joined = crowd.wait(1 + followers, P::NAME);
    let open = Instant::now();
    gate.step();
    let end = run(runtime, all).expect("all callers");
    assert_eq!(gate.begun(), 1, "{}: the work ran more than once", P::NAME);
    (joined - start) + (end - open)
}

/// Runs something as a task, and not for ever.
fn run<T: Send + 'static>(runtime: &Runtime, task: impl Future<Output = T> + Send + 'static) -> T {
    let task = runtime.spawn(async { timeout(LIMIT, task).await });
    let ended = runtime.block_on(task).expect("a task panicked");
    ended.unwrap_or_else(|_| panic!("the callers have not ended in {LIMIT:?}"))
}

/// A call as a task makes it, with a handle, a key and work of its own.
pub(super) async fn call<P, F, W>(peer: P, key: String, work: F)
where
    P: Peer<String>,
    F: FnOnce() -> W + Send + 'static,
    W: Future<Output = Value> + Send + 'static,
{
    let reply = peer.call(key, work).await;
    assert_eq!(P::outcome(reply), Ok(VALUE), "{}: another value", P::NAME);
}

/// Tasks that join.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// The calls that have been pending.
    pending: AtomicUsize,
    /// Polls of all.
    polls: AtomicUsize,
}

impl Joining {
    /// Spawns one more.
    pub(super) fn spawn<C>(self: &Arc<Self>, call: C) -> tokio::task::JoinHandle<C::Output>
    where
        C: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(Joiner {
            call,
            crowd: Arc::clone(self),
            is_new: true,
        })
    }

    /// How many are pending, and how often any was polled.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.pending.load(Ordering::Acquire), self.polls.load(Ordering::Acquire))
    }

    /// Blocks this thread until so many have joined, and says when the last one had.
    fn wait(&self, callers: usize, name: &str) -> Instant {
        let (mut last, mut since) = (self.progress(), Instant::now());
        loop {
            let (progress, now) = (self.progress(), Instant::now());
            if progress != last {
                (last, since) = (progress, now);
            } else if progress.0 == callers && now - since >= QUIET {
                return since;
            }
            assert!(
                now - since < LIMIT,
                "{name}: {} of {callers} callers are pending",
                progress.0
            );
            thread::sleep(SAMPLE);
        }
    }
}

pin_project! {
    /// A call whose polls are counted.
    struct Joiner<C> {
        #[pin]
        call: C,
        crowd: Arc<Joining>,
        // Until it has been polled.
        is_new: bool,
    }
}

impl<C: Future> Future for Joiner<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.project();
        let polled = this.call.poll(cx);
        // After the poll, so that no call is taken to have joined while it is being polled.
        this.crowd.polls.fetch_add(1, Ordering::AcqRel);
        if std::mem::take(this.is_new) {
            // A call that is ready before the gate is opened keeps it shut: the round fails for its time.
            this.crowd
                .pending
                .fetch_add(usize::from(polled.is_pending()), Ordering::AcqRel);
        }
        polled
    }
}
