//! Settling from outside what is in doubt.

use std::time::Duration;

use super::asking::answer_within;
use super::conclude::record_known;
use super::{Answer, Effect, Error, Idempotency};
use crate::identity::RequestId;
use crate::store::{ClaimOutcome, ClaimRequest, Store, Takeover};

impl<S: Store> Idempotency<S> {
    /// Settles a request that is in doubt, once somebody has found out what became of it.
    ///
    /// [`Answer::Completed`] records the result, [`Answer::Rerun`] makes the identity new, so that the next call
    /// executes; [`Answer::Refuse`] changes nothing. Nor does any answer change a request that is unknown or completed.
    /// The fingerprint may be left out.
    ///
    /// # Errors
    ///
    /// [`Error::InProgress`] while a holder is alive, [`Error::Conflict`] if the fingerprint is another one,
    /// [`Error::InDoubt`] if another attempt has ended in doubt meanwhile, and [`Error::Store`]. The request is as it was
    /// then. [`Error::Unrecorded`] if the store failed over the result.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the request is settled or still in doubt.
    pub async fn resolve(&self, id: &RequestId, answer: Answer) -> Result<(), Error> {
        let Some(record) = self.status(id).await? else {
            return Ok(());
        };
        if record.result().is_some() || matches!(answer, Answer::Refuse) {
            return Ok(());
        }
        // Who resolves need not know the payload.
        let id = &match (id.fingerprint(), record.fingerprint) {
            (None, Some(fingerprint)) => id.clone().with_known_fingerprint(fingerprint),
            _ => id.clone(),
        };
        // No lease: should this be cut short, the request is in doubt again at once.
        let request = ClaimRequest::new(id, Duration::ZERO).takeover(Takeover::Of(record.token));
        let failed = |error| Error::store(id, error, Effect::Unknown);
        let claimed = answer_within(self.shared.answer_patience(), self.shared.claim(request));
        match claimed.await.map_err(failed)? {
            ClaimOutcome::Granted(claim) => match answer {
                Answer::Completed(encoded) => record_known(&self.shared, id, claim, &encoded).await.map(drop),
                Answer::Rerun | Answer::Refuse => self.shared.release(claim).await.map_err(failed),
            },
            ClaimOutcome::Conflict => Err(Error::Conflict { id: id.clone() }),
            ClaimOutcome::InProgress { lease_remaining, .. } => Err(Error::InProgress {
                id: id.clone(),
                retry_after: lease_remaining,
            }),
            ClaimOutcome::InDoubt { attempt, .. } => Err(Error::InDoubt {
                id: id.clone(),
                attempt,
            }),
            ClaimOutcome::Completed(_) => Ok(()),
        }
    }
}
