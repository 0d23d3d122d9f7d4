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
//! claim. Most work is over before anything is to be renewed, so that task is spawned when it is: one for all
//! [waits](crate::idempotency::later) until then. But a task lives on one runtime, and the work may go on on another. So
//! whenever the work is polled, and from time to time besides, this checks that the task exists and has renewed in time.
//! Whether the lease runs is judged by the clock, not by what the task says: also where nothing runs, a lease that was not
//! renewed is lost.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::time::Instant;

use super::case::Case;
use super::keeper::{Keeper, Kept};
use super::standing::{LONG, Standing, View};
use crate::idempotency::later::Place;
use crate::record::FencingToken;
use crate::store::Store;
use crate::telemetry;
use crate::timer::{self, Timer, after, until};

/// A claim that is renewed until this is dropped.
pub(super) struct Lease<S: Store> {
    keeper: Arc<Keeper<S>>,
    /// The runtime that the task is on, or will be, and where it waits for that.
    on: Id,
    place: Option<Place>,
}

impl<S: Store> Lease<S> {
    /// Begins to renew. The lease runs since the instant given.
    pub(super) fn keep(case: Case<S>, token: FencingToken, since: Instant) -> Self {
        let (runtime, renewals) = (case.runtime.clone(), case.shared.renewals.clone());
        let due = since + (case.shared.lease / 3).min(LONG);
        let keeper = Keeper::new(case, token, since);
        let place = renewals.put(&runtime, due, Arc::clone(&keeper) as _);
        Self {
            keeper,
            on: runtime.id(),
            place: Some(place),
        }
    }

    /// Returns what the work may look at.
    pub(super) fn view(&self) -> View {
        self.keeper.view.clone()
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
        match self.keeper.view.standing() {
            Standing::Renewed(then) => then + (self.keeper.case.shared.lease / 2).min(LONG),
            Standing::Lost | Standing::Over => after(LONG),
        }
    }

    /// If the task is gone, or is on another runtime and does not get its turn, this begins another one where it is
    /// polled.
    fn see_that_it_is_renewed(&mut self, cx: &mut Context<'_>) {
        loop {
            let is_gone = match self.keeper.look(cx) {
                Kept::Over => return,
                Kept::Gone => true,
                Kept::Fine => false,
            };
            let is_elsewhere = || Handle::try_current().is_ok_and(|here| here.id() != self.on);
            if !is_gone && !(Instant::now() >= self.overdue() && is_elsewhere()) {
                return;
            }
            match timer::runtime() {
                Ok(runtime) => {
                    self.take_back();
                    self.keeper.renew_on(&runtime);
                    self.on = runtime.id();
                }
                // What does not run may run again.
                Err(_) if !is_gone => return,
                Err(reason) => {
                    self.keeper.give_up();
                    telemetry::not_renewed(&self.keeper.case.id, &reason);
                    return;
                }
            }
        }
    }

    /// From now on it is no news if the claim is gone.
    pub(super) fn concluding(&self) {
        self.keeper.concluding();
    }

    /// Stops renewing, and waits until a renewal that is under way is over, so that it does not prolong what is done to
    /// the lease from now on. This waits no longer than the next renewal could: if the task does not get its turn, or
    /// the store does not answer, the claim still has to be ended under its lease.
    pub(super) async fn stop(mut self) {
        self.concluding();
        self.take_back();
        self.keeper.stop();
        let limit = self.overdue().min(after(self.keeper.case.shared.lease));
        let _ = until(limit, poll_fn(|cx| self.keeper.poll_stopped(cx))).await;
    }

    fn take_back(&mut self) {
        if let Some(place) = self.place.take() {
            self.keeper.case.shared.renewals.take_back(self.on, place);
        }
    }
}

impl<S: Store> Drop for Lease<S> {
    fn drop(&mut self) {
        self.take_back();
        self.keeper.end();
    }
}
