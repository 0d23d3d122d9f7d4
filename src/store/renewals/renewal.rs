//! A renewal, and what renews many at once.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::store::error::StoreError;
use crate::telemetry::CurrentSpan;

/// Renews many leases at once: the part of a store that [`Renewals`](crate::store::Renewals) send what they have gathered
/// to.
pub trait RenewTogether: Send + Sync + 'static {
    /// Renews these leases, 1,000 at most, as [`Store::renew`](crate::store::Store::renew) does each, and
    /// [answers](Renewal::answer) each.
    ///
    /// A renewal may be answered before others are. One that is dropped without an answer fails with
    /// [`StoreError::Unavailable`]. Two may be of the same claim.
    ///
    /// # Cancel safety
    ///
    /// The future runs in a task of its own, or in the place of a caller where there are no timers. It is dropped when that
    /// runtime ends.
    fn renew_together(&self, renewals: Vec<Renewal>) -> impl Future<Output = ()> + Send;
}

/// A lease that is to be renewed, and the caller that waits for the answer.
#[must_use = "a renewal that is not answered has failed"]
pub struct Renewal {
    id: RequestIdentity,
    token: FencingToken,
    lease: Duration,
    caller: oneshot::Sender<Result<(), StoreError>>,
    span: CurrentSpan,
}

impl Renewal {
    pub(super) fn of(
        id: &RequestIdentity,
        token: FencingToken,
        lease: Duration,
    ) -> (Self, oneshot::Receiver<Result<(), StoreError>>) {
        let (caller, answer) = oneshot::channel();
        let renewal = Self {
            id: id.clone(),
            token,
            lease,
            caller,
            span: CurrentSpan::here(),
        };
        (renewal, answer)
    }

    /// The span of the caller.
    pub(super) fn span(&self) -> CurrentSpan {
        self.span.clone()
    }

    /// Returns the request whose claim has the lease.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        &self.id
    }

    /// Returns the token of the claim.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns how long the lease is to last from now.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Returns whether the caller still waits. What it does not want any more may be long out of date, and is not to be sent.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.caller.is_closed()
    }

    /// Tells the caller what came of it.
    pub fn answer(self, renewed: Result<(), StoreError>) {
        // The caller may be gone.
        let _ = self.caller.send(renewed);
    }

    /// Tells the caller what comes of this, which renews this lease alone. It runs in the caller's span, and is dropped if
    /// the caller does not wait any more.
    ///
    /// # Cancel safety
    ///
    /// The future drops `renewed`, and the renewal has failed.
    pub async fn answer_with(mut self, renewed: impl Future<Output = Result<(), StoreError>>) {
        let renewed = self.span.around(renewed);
        tokio::select! {
            biased;
            () = self.caller.closed() => {}
            renewed = renewed => self.answer(renewed),
        }
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
