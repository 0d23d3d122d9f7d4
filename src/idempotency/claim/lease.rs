//! Keeping a claim alive while the work runs.
//!
//! ```text
//! renewing ──every lease/3──▶ renewing; once more, if there is no answer in that time
//!    │  └──store unreachable──▶ renewing, more often; lost for as long as a lease has passed since the last one
//!    ├──another holder took over──▶ lost, for good
//!    ├──its runtime is gone, or does not run──▶ renewing where the work is polled
//!    │        └──where there are no timers──▶ lost, for good
//!    ├──work over, claim about to end──▶ renewing, silently: now it is we who end it
//!    └──execution over, or dropped──▶ ended
//! ```
//!
//! A task of its own renews the claim, not the task of the work: work that is not polled for a while must not lose its
//! claim. But a task lives on one runtime, and the work may go on on another. So whenever the work is polled, and from
//! time to time besides, this checks that the task exists and has renewed in time. Whether the lease runs is judged by
//! the clock, not by what the task says: also where nothing runs, a lease that was not renewed is lost.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::case::Case;
use crate::record::FencingToken;
use crate::store::{Store, StoreError};
use crate::telemetry;
use crate::timer::{self, Timer, after, until, within};

/// What is known of a lease.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// It was renewed, at the latest, by a question that was asked then.
    Renewed(Instant),
    Lost,
    /// The execution is over. There is nothing left to lose.
    Over,
}

/// What the work may know of its lease.
#[derive(Clone)]
pub(in crate::idempotency) struct View {
    standing: watch::Receiver<Standing>,
    lease: Duration,
}

impl Standing {
    fn is_lost(self, lease: Duration) -> bool {
        match self {
            Self::Renewed(then) => then.elapsed() >= lease,
            Self::Lost => true,
            Self::Over => false,
        }
    }
}

impl View {
    pub(in crate::idempotency) fn is_lost(&self) -> bool {
        self.standing.borrow().is_lost(self.lease)
    }

    /// Waits until the lease is lost. Waits forever if it never is.
    pub(in crate::idempotency) async fn lost(&self) {
        let mut standing = self.standing.clone();
        loop {
            let now = *standing.borrow_and_update();
            let ends = match now {
                _ if now.is_lost(self.lease) => return,
                Standing::Renewed(then) => then + self.lease.min(LONG),
                Standing::Lost | Standing::Over => return pending().await,
            };
            if let Some(Err(_)) = until(ends, standing.changed()).await {
                return pending().await;
            }
        }
    }
}

/// Longer than any wait.
const LONG: Duration = Duration::from_secs(1_000_000_000);

/// A claim that is renewed until this is dropped.
pub(super) struct Lease<S: Store> {
    keeper: Arc<Keeper<S>>,
    /// `None` once it has said why it ended, or there is no place for one.
    task: Option<JoinHandle<()>>,
    /// The runtime that the task is on.
    on: Id,
}

/// What the task needs to renew.
struct Keeper<S> {
    case: Case<S>,
    token: FencingToken,
    standing: watch::Sender<Standing>,
    stop: watch::Sender<bool>,
    /// The claim is being completed: if it is gone, that is no loss.
    concluding: AtomicBool,
}

impl<S: Store> Lease<S> {
    /// Begins to renew. The lease runs since the instant given.
    pub(super) fn keep(case: Case<S>, token: FencingToken, since: Instant) -> Self {
        let runtime = case.runtime.clone();
        let keeper = Arc::new(Keeper {
            case,
            token,
            standing: watch::Sender::new(Standing::Renewed(since)),
            stop: watch::Sender::new(false),
            concluding: AtomicBool::new(false),
        });
        Self {
            task: Some(keeper.spawn(&runtime)),
            on: runtime.id(),
            keeper,
        }
    }

    /// Returns what the work may look at.
    pub(super) fn view(&self) -> View {
        View {
            standing: self.keeper.standing.subscribe(),
            lease: self.keeper.case.shared.lease,
        }
    }

    /// Runs what needs the lease, and sees to it that a task renews meanwhile. The work is pinned already: an `async
    /// fn` would hold it twice.
    pub(super) async fn during<W: Future>(&mut self, mut work: Pin<&mut W>) -> W::Output {
        let mut look = pin!(Timer::at(self.overdue()));
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() {
                self.see_that_it_is_renewed(cx);
                // It is made anew where the work is polled now.
                while let Poll::Ready(Ok(())) = look.as_mut().poll(cx) {
                    look.as_mut()
                        .set(self.overdue().max(after(self.keeper.case.shared.lease / 2)));
                }
            }
            polled
        })
        .await
    }

    /// When a renewal is overdue.
    fn overdue(&self) -> Instant {
        match *self.keeper.standing.borrow() {
            Standing::Renewed(then) => then + (self.keeper.case.shared.lease / 2).min(LONG),
            Standing::Lost | Standing::Over => after(LONG),
        }
    }

    /// If the task is gone, or is on another runtime and does not get its turn, this begins another one where it is
    /// polled.
    fn see_that_it_is_renewed(&mut self, cx: &mut Context<'_>) {
        while let Some(task) = &mut self.task {
            match Pin::new(task).poll(cx) {
                Poll::Ready(Ok(())) => self.task = None,
                Poll::Ready(Err(_)) => match timer::runtime() {
                    Ok(runtime) => self.renew_on(&runtime),
                    Err(reason) => {
                        self.task = None;
                        self.keeper.standing.send_replace(Standing::Lost);
                        telemetry::not_renewed(&self.keeper.case.id, &reason);
                    }
                },
                Poll::Pending => match Handle::try_current() {
                    Ok(here) if here.id() != self.on && Instant::now() >= self.overdue() => match timer::runtime() {
                        Ok(runtime) => self.renew_on(&runtime),
                        Err(_) => return,
                    },
                    _ => return,
                },
            }
        }
    }

    fn renew_on(&mut self, runtime: &Handle) {
        if let Some(before) = self.task.replace(self.keeper.spawn(runtime)) {
            before.abort();
        }
        self.on = runtime.id();
    }

    /// From now on it is no news if the claim is gone.
    pub(super) fn concluding(&self) {
        self.keeper.concluding.store(true, Ordering::SeqCst);
    }

    /// Stops renewing, and waits until a renewal that is under way is over, so that it does not prolong what is done to
    /// the lease from now on. This waits no longer than the next renewal could: if the task does not get its turn, or
    /// the store does not answer, the claim still has to be ended under its lease.
    pub(super) async fn stop(mut self) {
        self.concluding();
        self.keeper.stop.send_replace(true);
        let limit = self.overdue().min(after(self.keeper.case.shared.lease));
        if let Some(task) = &mut self.task {
            let _ = until(limit, task).await;
        }
    }
}

impl<S: Store> Drop for Lease<S> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        let lease = self.keeper.case.shared.lease;
        self.keeper.standing.send_modify(|standing| {
            *standing = match standing.is_lost(lease) {
                true => Standing::Lost,
                false => Standing::Over,
            };
        });
    }
}

impl<S: Store> Keeper<S> {
    fn spawn(self: &Arc<Self>, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(telemetry::in_current_span(Arc::clone(self).renew()))
    }

    async fn renew(self: Arc<Self>) {
        let lease = self.case.shared.lease;
        let mut questions = JoinSet::new();
        let mut pause = match *self.standing.borrow() {
            Standing::Renewed(then) => (lease / 3).saturating_sub(then.elapsed()),
            Standing::Lost | Standing::Over => return,
        };
        loop {
            match self.next(&mut questions, pause).await {
                // An answer that does not come must not cost the lease: it is asked again meanwhile.
                Next::Ask => {
                    let keeper = Arc::clone(&self);
                    questions.spawn(telemetry::in_current_span(async move {
                        let asked = Instant::now();
                        (asked, keeper.case.shared.renew(&keeper.case.id, keeper.token).await)
                    }));
                    pause = lease / 3;
                }
                Next::Renewed(asked) => {
                    self.standing.send_if_modified(|standing| match standing {
                        Standing::Renewed(then) => {
                            let was_lost = then.elapsed() >= lease;
                            *then = asked.max(*then);
                            was_lost
                        }
                        Standing::Lost | Standing::Over => false,
                    });
                    pause = (lease / 3).saturating_sub(asked.elapsed());
                }
                Next::Failed => pause = lease / 10,
                Next::Outdated => {
                    self.standing.send_replace(Standing::Lost);
                    if !self.concluding.load(Ordering::SeqCst) {
                        telemetry::lease_lost(&self.case.id, self.token.get());
                    }
                    return;
                }
                Next::Stop => {
                    while questions.join_next().await.is_some() {}
                    return;
                }
            }
        }
    }

    /// What happens next, at the latest after the pause.
    async fn next(&self, questions: &mut JoinSet<(Instant, Result<(), StoreError>)>, pause: Duration) -> Next {
        let mut stopped = self.stop.subscribe();
        let mut stop = pin!(stopped.wait_for(|is_stopped| *is_stopped));
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

/// What the task that renews does next.
enum Next {
    Ask,
    /// By the question that was asked then.
    Renewed(Instant),
    Failed,
    Outdated,
    Stop,
}
