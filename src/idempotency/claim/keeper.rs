//! What renews a lease: a task, once a third of the lease is over.
//!
//! ```text
//! waiting ──lease/3──▶ runs ──another holder took over, or stopped──▶ ended
//!    │                  │
//!    └──runtime gone────┴──▶ stranded, or cancelled: the lease has it spawned where its work is polled
//! ```

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::case::Case;
use super::standing::{Standing, View};
use crate::idempotency::later::Waiting;
use crate::record::FencingToken;
use crate::store::{Store, StoreError, Withdrawal};
use crate::telemetry::{self, CurrentSpan};
use crate::timer::within;

pub(super) struct Keeper<S> {
    pub(super) case: Case<S>,
    pub(super) view: View,
    token: FencingToken,
    task: Mutex<Task>,
    stop: Notify,
    /// The claim is being completed: if it is gone, that is no loss.
    concluding: AtomicBool,
    span: CurrentSpan,
}

enum Task {
    /// There is none so far. This is who is to know when there is, or will be none.
    Waiting(Option<Waker>),
    Runs(JoinHandle<()>),
    Stranded,
    /// It has said why it ended, there is no place for one, or none is wanted any more.
    Over,
}

/// What is to be said of the task.
pub(super) enum Kept {
    /// The lease is renewed, or will be.
    Fine,
    Gone,
    Over,
}

enum Next {
    Ask,
    Renewed(Instant),
    Failed,
    Outdated,
    Stop,
}

impl<S: Store> Keeper<S> {
    pub(super) fn new(case: Case<S>, token: FencingToken, since: Instant) -> Arc<Self> {
        Arc::new(Self {
            view: View::new(case.shared.lease, since),
            case,
            token,
            task: Mutex::new(Task::Waiting(None)),
            stop: Notify::new(),
            concluding: AtomicBool::new(false),
            span: CurrentSpan::here(),
        })
    }

    /// Looks whether there is a task, or will be one. Wakes this task if that changes.
    pub(super) fn look(&self, cx: &mut Context<'_>) -> Kept {
        let mut before = None;
        let mut task = self.task.lock();
        let kept = match &mut *task {
            Task::Waiting(waker) => {
                if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    before = waker.replace(cx.waker().clone());
                }
                Kept::Fine
            }
            Task::Runs(runs) => match Pin::new(runs).poll(cx) {
                Poll::Ready(Ok(())) => {
                    *task = Task::Over;
                    Kept::Over
                }
                Poll::Ready(Err(_)) => Kept::Gone,
                Poll::Pending => Kept::Fine,
            },
            Task::Stranded => Kept::Gone,
            Task::Over => Kept::Over,
        };
        drop(task);
        // A waker is another's code, and so is what it drops.
        drop(before);
        kept
    }

    /// Has a task renew on this runtime, in place of the one before.
    pub(super) fn renew_on(self: &Arc<Self>, runtime: &Handle) {
        let spawned = self.spawn(runtime);
        let before = mem::replace(&mut *self.task.lock(), Task::Runs(spawned));
        before.abort();
    }

    /// There is no place for a task.
    pub(super) fn give_up(&self) {
        let before = mem::replace(&mut *self.task.lock(), Task::Over);
        drop(before);
        self.view.lose();
    }

    /// From now on it is no news if the claim is gone.
    pub(super) fn concluding(&self) {
        self.concluding.store(true, Ordering::SeqCst);
    }

    /// Has the task ask no more. One that has not begun never does.
    pub(super) fn stop(&self) {
        let mut before = None;
        let mut task = self.task.lock();
        match *task {
            Task::Runs(_) => self.stop.notify_one(),
            Task::Waiting(_) | Task::Stranded | Task::Over => before = Some(mem::replace(&mut *task, Task::Over)),
        }
        drop(task);
        drop(before);
    }

    /// Is ready when nothing is asked any more.
    pub(super) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.look(cx) {
            Kept::Fine => Poll::Pending,
            Kept::Gone | Kept::Over => Poll::Ready(()),
        }
    }

    /// The execution is over.
    pub(super) fn end(&self) {
        let task = mem::replace(&mut *self.task.lock(), Task::Over);
        task.abort();
        self.view.end();
    }

    fn spawn(self: &Arc<Self>, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(self.span.around(Arc::clone(self).renew()))
    }

    async fn renew(self: Arc<Self>) {
        let lease = self.case.shared.lease;
        // Questions that are under way are dropped with this.
        let (mut questions, withdrawal) = (JoinSet::new(), Withdrawal::new());
        let mut pause = match self.view.standing() {
            Standing::Renewed(then) => (lease / 3).saturating_sub(then.elapsed()),
            Standing::Lost | Standing::Over => return,
        };
        loop {
            match self.next(&mut questions, pause).await {
                // An answer that does not come must not cost the lease: it is asked again meanwhile.
                Next::Ask => {
                    let keeper = Arc::clone(&self);
                    questions.spawn(telemetry::in_current_span(withdrawal.scope(async move {
                        let asked = Instant::now();
                        (asked, keeper.case.shared.renew(&keeper.case.id, keeper.token).await)
                    })));
                    pause = lease / 3;
                }
                Next::Renewed(asked) => {
                    self.view.renewed(asked);
                    pause = (lease / 3).saturating_sub(asked.elapsed());
                }
                Next::Failed => pause = lease / 10,
                Next::Outdated => {
                    self.view.lose();
                    if !self.concluding.load(Ordering::SeqCst) {
                        telemetry::lease_lost(&self.case.id, self.token.get());
                    }
                    return;
                }
                Next::Stop => {
                    withdrawal.withdraw();
                    while questions.join_next().await.is_some() {}
                    return;
                }
            }
        }
    }

    /// Waits for whichever comes first: an answer, the end of the pause, or that it is to stop.
    async fn next(&self, questions: &mut JoinSet<(Instant, Result<(), StoreError>)>, pause: Duration) -> Next {
        let mut stop = pin!(self.stop.notified());
        let earlier = poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Stop);
            }
            match questions.poll_join_next(cx) {
                Poll::Ready(Some(answer)) => Poll::Ready(match answer {
                    Ok((asked, Ok(()))) => Next::Renewed(asked),
                    Ok((_, Err(StoreError::Outdated { .. }))) => Next::Outdated,
                    Ok((_, Err(_))) | Err(_) => Next::Failed,
                }),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        within(pause, earlier).await.unwrap_or(Next::Ask)
    }
}

impl<S: Store> Waiting for Keeper<S> {
    fn begin(self: Arc<Self>) {
        let mut task = self.task.lock();
        // It may have ended meanwhile.
        let Task::Waiting(waker) = &mut *task else { return };
        let waker = waker.take();
        *task = Task::Runs(self.spawn(&Handle::current()));
        drop(task);
        waker.into_iter().for_each(Waker::wake);
    }

    fn strand(&self) {
        let mut task = self.task.lock();
        let Task::Waiting(waker) = &mut *task else { return };
        let waker = waker.take();
        *task = Task::Stranded;
        drop(task);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Task {
    fn abort(&self) {
        if let Self::Runs(task) = self {
            task.abort();
        }
    }
}
