//! How far a flight has come, for its callers to see, so that each of them waits as long as it said.
//!
//! ```text
//! asking ──────────────granted─────────────▶ working: waited for, however long it takes
//!    └──in progress elsewhere──▶ waiting ──────┘ granted
//! ```
//!
//! A flight on its way to a claim is given up at the latest deadline of all callers that have asked for it. A caller
//! with an earlier deadline leaves then, and leaves the flight to the others. Neither the flight alone nor its leader
//! can see to that: a caller that joins late would have what is left of the leader's time.
//!
//! There is one [`Progress`] for a request. The first caller that comes makes it, and it goes with the last. A flight
//! that begins while some callers of the one before are still on their way out takes it over: the group has the key in
//! flight once, so nothing else writes there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::answer::silent;
use super::error::{Effect, Error, ErrorKind};
use crate::identity::RequestIdentity;
use crate::store::Turn;
use crate::store::turn::{Sign, waits_for_itself};
use crate::timer::{NoTimers, Timer, after};

/// How long the first answer of the store is waited for, however short the wait. The same holds for a lock of the
/// store's, since most are held for another request.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How much longer than its locks the store itself is waited for.
const MARGIN: Duration = Duration::from_millis(500);
/// The longest that a caller is told to stay away: the work is likely to end before its lease.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);
const SHORTEST_RETRY_AFTER: Duration = Duration::from_millis(5);
/// How often a caller whose time is over looks whether its flight has come so far that it may leave.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The flights of a process. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<RequestIdentity, Weak<Progress>>>>);

impl Flights {
    /// Returns the progress of the flight that there is, or will be, for a request.
    pub(super) fn of(&self, id: &RequestIdentity) -> Arc<Progress> {
        let progress = || {
            Arc::new(Progress {
                id: id.clone(),
                flights: self.clone(),
                stage: Mutex::new((Stage::Asking, Instant::now())),
                sign: Sign::default(),
            })
        };
        match self.0.lock().entry(id.clone()) {
            Entry::Occupied(mut place) => place.get().upgrade().unwrap_or_else(|| {
                let progress = progress();
                place.insert(Arc::downgrade(&progress));
                progress
            }),
            Entry::Vacant(place) => {
                let progress = progress();
                place.insert(Arc::downgrade(&progress));
                progress
            }
        }
    }
}

/// How far a flight has come.
pub(super) struct Progress {
    id: RequestIdentity,
    flights: Flights,
    /// The stage, and the latest deadline of the callers that asked for the flight.
    stage: Mutex<(Stage, Instant)>,
    /// Shows which turn to write the flight waits for.
    pub(super) sign: Sign,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The store has not answered so far.
    Asking,
    /// The store has said that the request is in progress, under a lease that runs until then.
    Waiting(Instant),
    Working,
}

impl Progress {
    /// A flight begins, for a caller that waits until then.
    pub(super) fn begin(&self, until: Instant) {
        *self.stage.lock() = (Stage::Asking, until);
    }

    /// The store has said that the request is in progress elsewhere, under a lease of which that much is left.
    pub(super) fn wait(&self, lease_remaining: Duration) {
        let ends = after(lease_remaining);
        let mut stage = self.stage.lock();
        if stage.0 != Stage::Working {
            stage.0 = Stage::Waiting(ends);
        }
    }

    /// The claim is granted.
    pub(super) fn work(&self) {
        self.stage.lock().0 = Stage::Working;
    }

    /// Until when the claim is waited for.
    pub(super) fn until(&self) -> Instant {
        self.stage.lock().1
    }

    /// How much of the wait is left.
    pub(super) fn left(&self) -> Duration {
        self.until().saturating_duration_since(Instant::now())
    }

    /// How long the locks of the store may be waited for.
    pub(super) fn patience(&self) -> Duration {
        self.left().max(LOCK_PATIENCE)
    }

    /// How long the store itself is waited for, which waits for its locks.
    pub(super) fn answer_patience(&self) -> Duration {
        self.patience() + MARGIN
    }

    /// Returns the reason for which a caller that waits until then has to leave its flight before it lands. Waits
    /// forever if there is none.
    pub(super) async fn left_by(&self, until: Instant, turn: Option<Turn>, runtime: Option<Handle>) -> Error {
        {
            let mut stage = self.stage.lock();
            stage.1 = stage.1.max(until);
        }
        let since = Instant::now();
        let (mut late, mut in_the_way) = (pin!(self.is_late(until, runtime)), pin!(self.waits_for(turn)));
        poll_fn(|cx| match in_the_way.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Error::store(&self.id, waits_for_itself(), Effect::Unknown)),
            Poll::Pending => late.as_mut().poll(cx).map(|in_progress| match in_progress {
                Some(ends) => ErrorKind::InProgress {
                    retry_after: retry_after(ends.saturating_duration_since(Instant::now())),
                }
                .of(&self.id),
                // It is not known whether the request is being executed. The others go on asking.
                None => Error::store(&self.id, silent(since.elapsed()), Effect::Unknown),
            }),
        })
        .await
    }

    async fn waits_for(&self, turn: Option<Turn>) {
        match turn {
            Some(turn) => self.sign.says(turn).await,
            None => pending().await,
        }
    }

    /// Waits until a caller's time is over while its flight goes on for others that have more. Returns when the lease
    /// ends under which the request is in progress elsewhere, if that is known.
    async fn is_late(&self, until: Instant, runtime: Option<Handle>) -> Option<Instant> {
        let first_answer = Instant::now() + LOCK_PATIENCE;
        let timer = match runtime {
            Some(runtime) => Timer::of(&runtime, until),
            None => Timer::at(until),
        };
        let mut timer = pin!(timer);
        loop {
            if let Err(NoTimers) = timer.as_mut().await {
                return pending().await;
            }
            let now = Instant::now();
            let (stage, latest) = *self.stage.lock();
            match stage {
                Stage::Working => return pending().await,
                Stage::Waiting(ends) if latest > until => return Some(ends),
                Stage::Asking if latest > until && now >= first_answer => return None,
                // It is at its end by itself, or its first answer is about to come.
                Stage::Waiting(_) | Stage::Asking => {}
            }
            timer.as_mut().set(now + LOOK_AGAIN);
        }
    }
}

/// How long to wait before asking again is worthwhile, for a request in progress whose lease has that much left.
pub(super) fn retry_after(lease_remaining: Duration) -> Duration {
    lease_remaining.clamp(SHORTEST_RETRY_AFTER, LONGEST_RETRY_AFTER)
}

/// Stays in a flight until it lands, or until the caller has to leave it, for the reason that `left` ends with.
pub(super) fn share<F: Future, L: Future<Output = Error>>(flight: F, left: L) -> Share<F, L> {
    Share { flight, left }
}

pin_project! {
    /// See [`share`].
    pub(super) struct Share<F, L> {
        #[pin]
        flight: F,
        #[pin]
        left: L,
    }
}

impl<F: Future, L: Future<Output = Error>> Future for Share<F, L> {
    type Output = Result<F::Output, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(landed) = this.flight.poll(cx) {
            return Poll::Ready(Ok(landed));
        }
        // Not before the flight was joined: this is polled for the first time now.
        this.left.poll(cx).map(Err)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        // Another one may have been made by now.
        if flights.get(&self.id).is_some_and(|listed| listed.strong_count() == 0) {
            flights.remove(&self.id);
        }
    }
}
