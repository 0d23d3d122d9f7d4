//! How an operator settles what is in doubt.

use std::time::Duration;

use super::answer::answer_within;
use super::claim::{record_known, told};
use super::codec::Format;
use super::error::{Effect, Error};
use super::recovery::Resolution;
use super::run::Idempotency;
use crate::identity::RequestIdentity;
use crate::record::HolderId;
use crate::store::{ClaimOutcome, ClaimRequest, Purpose, Store, Takeover};

/// What [`Idempotency::resolve`] found, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolved {
    /// The request is completed: every call is answered with the result from now on, or told that it is
    /// [too large](super::ErrorKind::ResultTooLarge) to be kept.
    Recorded,
    /// The identity is new: the next call executes.
    Freed,
    /// The request is as it was, as [`Resolution::Hold`] asks for. Its holder may be alive.
    Held,
    /// The store knows no such request, so nothing was changed: it never began, was rolled back or freed, or is past
    /// its retention.
    Absent,
    /// The request was completed before, and nothing was changed.
    AlreadyCompleted,
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Settles a request that is in doubt, once its outcome has been found out.
    ///
    /// [`Resolution::Completed`] records the result. [`Resolution::Rerun`] makes the identity new, so that the next
    /// call executes. [`Resolution::Hold`] changes nothing. A request that is absent or completed is not changed by any
    /// of them. Which it was is returned.
    ///
    /// The fingerprint may be left out. It is compared only where there is something to settle: a request that was
    /// completed under another one is [`AlreadyCompleted`](Resolved::AlreadyCompleted), not a conflict.
    ///
    /// A result that is recorded so has a holder that [says so](crate::record::HolderId::settles).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Resolution, Resolved};
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
    /// match idem.resolve(&id, Resolution::completed("ch_1")?).await? {
    ///     Resolved::Recorded => println!("{id} is answered with ch_1 from now on"),
    ///     Resolved::Absent => println!("there is no {id}; is its scope the right one?"),
    ///     other => println!("{id} was not changed: {other:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// If you find out by looking at what the work calls, do not look too early: a call that was cut off may still
    /// land. [`Recovery::ask`](super::Recovery::ask) has more.
    ///
    /// # Errors
    ///
    /// * [`InProgress`](super::ErrorKind::InProgress) while a holder is alive, or a step of it is about to be committed.
    /// * [`Conflict`](super::ErrorKind::Conflict) if the fingerprint is another one.
    /// * [`InDoubt`](super::ErrorKind::InDoubt) if another attempt has ended in doubt meanwhile.
    /// * [`Codec`](super::ErrorKind::Codec) if the result was encoded by another codec.
    /// * [`Store`](super::ErrorKind::Store) if the store failed.
    /// * [`Unrecorded`](super::ErrorKind::Unrecorded) if the store failed while the result was recorded.
    ///
    /// After any of them but the last, the request is as it was, or still in doubt: a mutation of steps may be
    /// [held](super::Idempotency::resume_steps).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the request is settled or still in doubt. A mutation of steps has all its steps
    /// then, and is held.
    pub async fn resolve(&self, id: &RequestIdentity, resolution: Resolution) -> Result<Resolved, Error> {
        if let Resolution::Completed(encoded) = &resolution {
            encoded.check(self.shared.format).map_err(|error| error.of(id))?;
        }
        let Some(record) = self.status(id).await? else {
            return Ok(Resolved::Absent);
        };
        if record.result().is_some() {
            return Ok(Resolved::AlreadyCompleted);
        }
        if let Resolution::Hold = resolution {
            return Ok(Resolved::Held);
        }
        // An operator need not know the payload.
        let is_same = match id.fingerprint() {
            None => true,
            own => !self.shared.missing_fingerprint.tells_apart(own, record.fingerprint),
        };
        let id = &match is_same {
            true => id.known_as(record.fingerprint),
            false => id.clone(),
        };
        // No lease: if this is cut short, the request is in doubt again at once.
        let request = ClaimRequest::new(id, Duration::ZERO).takeover(Takeover::Of(record.token));
        let request = request.purpose(Purpose::Resolve).holder(HolderId::settling());
        let failed = |error| Error::store(id, error, Effect::Unknown);
        let claimed = answer_within(self.shared.answer_patience(), self.shared.claim(request));
        match claimed.await.map_err(failed)? {
            ClaimOutcome::Granted(claim) => match resolution {
                Resolution::Completed(encoded) => {
                    let recorded = record_known(&self.shared, &claim, &encoded).await;
                    recorded.map(|_| Resolved::Recorded)
                }
                Resolution::Rerun | Resolution::Hold => {
                    let released = self.shared.release(&claim).await;
                    released.map(|()| Resolved::Freed).map_err(failed)
                }
            },
            ClaimOutcome::Denied(denied) => told(id, denied).map(|_| Resolved::AlreadyCompleted),
        }
    }
}
