//! Renewals of many leases in few round trips.
//!
//! ```text
//! quiet ──renewal──▶ gathering ──at once, or a window after the last──▶ sent, and gathering anew
//!   ▲                                                                     │
//!   └──────────── nothing came within a window ───────────────────────────┘
//! ```
//!
//! A process renews each of its leases at a third of its length, and may hold thousands. So they go out together: those
//! that come within a window of one another share a message. A window is a sixteenth of a third of the lease, so a
//! process has some sixteen round trips in a third. What is late by a window has five thirds
//! of that left to be renewed in. A renewal that comes after a quiet window is sent at once.
//!
//! # What must not hold others up
//!
//! * An answer that does not come: the task that gathers waits for none. What is sent has a task of its own.
//! * A caller that is dropped, or kept and never polled: it sends nothing for others. What it asked for is not sent
//!   either, unless that has happened when it is dropped.
//! * A claim that ends: a renewal of its that was not sent is [withdrawn](withdrawal), and not waited for.
//! * A runtime. The task that gathers runs where the first renewal was asked for. A worker may block with the task in its
//!   hands, the runtime may end, or have more to do than it can. So a renewal that was not taken two windows later looks
//!   whether the task is late, and begins another one where it waits itself. Whichever gets its turn first sends.
//! * A runtime of one thread, which runs only while somebody is inside of it. A task there takes only what was asked for on
//!   that runtime: others would wait for an answer that comes when it runs again.
//!   Nor do others wait a window for what was sent there.
//! * A subscriber of the user's that is told of a span. What waits is under a lock, and a span is closed without it.

mod gathering;
mod parts;
mod renewal;
mod withdrawal;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::error::StoreError;
use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::timer::{self, within};
use gathering::{Inner, LATE, window};
pub use parts::RenewalParts;
pub use renewal::{RenewTogether, Renewal};
pub(crate) use withdrawal::Withdrawal;

/// Gathers the renewals of one process, and sends those together that come at about the same time. Clones share what is
/// gathered.
///
/// Those that come within a forty-eighth of the lease, and 2 s at most, go out together, 1,000 in a message. So a process
/// renews 16,000 leases of one length in some sixteen messages in a third of a lease. A renewal that comes alone is sent at
/// once.
///
/// All runtimes with threads of their own share a message. What is asked for on a runtime of one thread, which may rest, goes
/// with them, or is sent there with what was asked for on the same.
///
/// A store has one of these, and its [`renew`](super::Store::renew) is a call of [`Renewals::renew`].
///
/// # Examples
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use futures::future::join_all;
/// use oneflight::record::FencingToken;
/// use oneflight::store::{Renewal, Renewals, RenewTogether, StoreError};
/// use oneflight::{RequestIdentity, Scope};
///
/// /// The way to a server of your own.
/// struct Server;
///
/// impl RenewTogether for Server {
///     async fn renew_together(&self, renewals: Vec<Renewal>) {
///         // Here is one round trip, which says for each whether the claim is still its holder's.
///         for renewal in renewals {
///             match renewal.token().get() {
///                 13 => {
///                     let token = renewal.token();
///                     renewal.answer(Err(StoreError::Outdated { token }));
///                 }
///                 _ => renewal.answer(Ok(())),
///             }
///         }
///     }
/// }
///
/// let renewals = Renewals::over(Server);
/// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
/// let lease = Duration::from_secs(10);
/// let renew = |token| renewals.renew(&id, FencingToken::new(token), lease);
///
/// let renewed = join_all([renew(12), renew(13)]).await;
/// assert!(renewed[0].is_ok());
/// assert!(matches!(renewed[1], Err(StoreError::Outdated { .. })));
/// # Ok(()) }
/// ```
pub struct Renewals<R>(Arc<Inner<R>>);

impl<R: RenewTogether> Renewals<R> {
    /// Makes a place to gather in, over a way to renew.
    #[must_use]
    pub fn over(way: R) -> Self {
        Self(Arc::new(Inner::over(way)))
    }

    /// Renews a lease, together with others.
    ///
    /// Where nothing runs tasks with timers, it is renewed alone and at once.
    ///
    /// # Errors
    ///
    /// * What the renewal was [answered](Renewal::answer) with.
    /// * [`StoreError::Unavailable`] if it was given up, most likely since a runtime has ended.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped. The lease is then renewed, or is not; other renewals are not concerned.
    pub async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let (renewal, mut answer) = Renewal::of(id, token, lease);
        let (mut withdrawn, mut is_withdrawn) = (pin!(Withdrawal::here()), false);
        let number = self.0.gather(renewal);
        let answered = loop {
            match timer::runtime() {
                Ok(runtime) => self.0.see_to_it(number, &runtime),
                Err(_) => self.0.send_alone(number).await,
            }
            let either = async {
                tokio::select! {
                    biased;
                    answered = &mut answer => Some(answered),
                    () = &mut withdrawn, if !is_withdrawn => None,
                }
            };
            match within(2 * window(lease) + LATE, either).await {
                Some(Some(answered)) => break answered,
                Some(None) if self.0.take_back(number).is_some() => {
                    return Err(StoreError::unavailable(
                        "the renewal is not needed any more, and was not sent",
                    ));
                }
                // What was sent may still be carried out.
                Some(None) => is_withdrawn = true,
                None if self.0.is_waiting(number) => {}
                None => break answer.await,
            }
        };
        answered.map_err(|_| {
            StoreError::unavailable("the renewal was given up: a runtime has ended, or the store panicked")
        })?
    }
}

impl<R> Clone for Renewals<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> fmt::Debug for Renewals<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewals").finish_non_exhaustive()
    }
}
