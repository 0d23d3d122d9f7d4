//! How an operator settles what is in doubt.

use std::time::Duration;

use super::answer::answer_within;
use super::claim::{record_known, told};
use super::codec::Format;
use super::error::{Effect, Error};
use super::recovery::Resolution;
use super::run::Idempotency;
use crate::identity::RequestIdentity;
use crate::store::{ClaimOutcome, ClaimRequest, Store, Takeover};

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Settles a request that is in doubt, once its outcome has been found out.
    ///
    /// [`Resolution::Completed`] records the result. [`Resolution::Rerun`] makes the identity new, so that the next
    /// call executes. [`Resolution::Hold`] changes nothing. A request that is unknown or completed is not changed by
    /// any of them. The fingerprint may be left out.
    ///
    /// If you find out by looking at what the work calls, do not look too early: a call that was cut off may still
    /// land. [`Recovery::ask`](super::Recovery::ask) has more.
    ///
    /// # Errors
    ///
    /// * [`InProgress`](super::ErrorKind::InProgress) while a holder is alive.
    /// * [`Conflict`](super::ErrorKind::Conflict) if the fingerprint is another one.
    /// * [`InDoubt`](super::ErrorKind::InDoubt) if another attempt has ended in doubt meanwhile.
    /// * [`Codec`](super::ErrorKind::Codec) if the result was encoded by another codec.
    /// * [`Store`](super::ErrorKind::Store) if the store failed.
    /// * [`Unrecorded`](super::ErrorKind::Unrecorded) if the store failed while the result was recorded.
    ///
    /// After any of them but the last, the request is as it was.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the request is settled or still in doubt.
    pub async fn resolve(&self, id: &RequestIdentity, resolution: Resolution) -> Result<(), Error> {
        if let Resolution::Completed(encoded) = &resolution {
            encoded.check(self.shared.format).map_err(|error| error.of(id))?;
        }
        let Some(record) = self.status(id).await? else {
            return Ok(());
        };
        if record.result().is_some() || matches!(resolution, Resolution::Hold) {
            return Ok(());
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
        let failed = |error| Error::store(id, error, Effect::Unknown);
        let claimed = answer_within(self.shared.answer_patience(), self.shared.claim(request));
        match claimed.await.map_err(failed)? {
            ClaimOutcome::Granted(claim) => match resolution {
                Resolution::Completed(encoded) => record_known(&self.shared, &claim, &encoded).await.map(drop),
                Resolution::Rerun | Resolution::Hold => self.shared.release(&claim).await.map_err(failed),
            },
            ClaimOutcome::Denied(denied) => told(id, denied).map(drop),
        }
    }
}
