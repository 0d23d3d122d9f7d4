//! A call's way through its flight in this process.
//!
//! Callers of one flight may have asked with different fingerprints. Where the group lets them share it, the record
//! tells which of them the result belongs to.

use std::future::Future;
use std::sync::Arc;

use super::codec::{Codec, Format};
use super::error::{Effect, Error, ErrorKind};
use super::missing::MissingFingerprint;
use super::progress::{self, Progress};
use super::reply::Reply;
use super::run::Idempotency;
use super::settled::Settled;
use crate::correlation;
use crate::group::{self, Outcome};
use crate::identity::{Fingerprint, RequestIdentity};
use crate::store::{Store, Turn};
use crate::timer;

/// Why a call has no answer: its flight has logged it, or it is to be logged here.
enum Unanswered {
    ByFlight(Error),
    Here(Error),
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Leads or joins the flight of a request.
    pub(super) async fn fly<T, F, W>(&self, id: RequestIdentity, flight: F) -> Result<Reply<T>, Error>
    where
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Arc<Progress>) -> W + Send + 'static,
        W: Future<Output = Result<Settled, Error>> + Send + 'static,
    {
        self.begin_purging();
        let (own, missing) = (id.fingerprint(), self.shared.missing_fingerprint);
        // A call from within a turn of the store is told so, although another task polls the flight.
        let turn = Turn::current();
        // The work is done for this call, also where another one polls it.
        let correlation = correlation::current();
        let until = timer::after(self.shared.wait);
        let progress = self.shared.flights.of(&id);
        let leads = Arc::clone(&progress);
        let flight = move || {
            leads.begin(until);
            let sign = leads.sign.clone();
            // Boxed once: without optimization each of the layers below would hold it on the stack.
            let flight = Box::pin(flight(leads));
            let flight = async move { (own, flight.await.inspect_err(Error::tell)) };
            correlation::carry(correlation, sign.scope(turn, flight))
        };
        let run = self.group.run(id.clone(), flight);
        let left = progress.left_by(until, turn, self.shared.runtime.clone());
        let landed = match own {
            Some(fingerprint) if missing == MissingFingerprint::Conflict => {
                progress::share(run.fingerprint(fingerprint), left).await
            }
            // Without a fingerprint the group lets every caller in. A caller that was not meant finds out afterwards.
            _ => progress::share(run, left).await,
        };
        let landed = landed.inspect_err(Error::tell)?;
        let refused = match landed {
            Ok(Outcome {
                value: (leaders, value),
                role,
            }) => match self.told_apart(&id, leaders, value).await {
                Ok(settled) => return settled.reply(&*self.codec, &id, role).inspect_err(Error::tell),
                Err(Unanswered::ByFlight(error)) => return Err(error),
                Err(Unanswered::Here(error)) => error,
            },
            // Logged by its flight. In a transaction, the panic has become a value by now.
            Err(group::Error::Panicked(panic)) => {
                return Err(ErrorKind::Panicked(panic).of(&id));
            }
            Err(group::Error::Conflict) => ErrorKind::Conflict.of(&id),
            Err(source) => ErrorKind::Flight(source).of(&id),
        };
        refused.tell();
        Err(refused)
    }

    /// Returns what a flight comes to for a call whose fingerprint may differ from the leader's. The leader was
    /// answered under its own; where they differ, the record tells which payload the answer belongs to.
    async fn told_apart(
        &self,
        id: &RequestIdentity,
        leaders: Option<Fingerprint>,
        landed: Result<Settled, Error>,
    ) -> Result<Settled, Unanswered> {
        let (own, missing) = (id.fingerprint(), self.shared.missing_fingerprint);
        if leaders == own {
            return landed.map_err(Unanswered::ByFlight);
        }
        if missing.tells_apart(leaders, own) {
            return Err(Unanswered::Here(ErrorKind::Conflict.of(id)));
        }
        // It is rare, and in a box it is no part of every call.
        Box::pin(self.looked_up(id, landed)).await
    }

    /// Returns the same where the record has to tell.
    async fn looked_up(&self, id: &RequestIdentity, landed: Result<Settled, Error>) -> Result<Settled, Unanswered> {
        let (own, missing) = (id.fingerprint(), self.shared.missing_fingerprint);
        let conflict = || Unanswered::Here(ErrorKind::Conflict.of(id));
        let unknown = |error| Unanswered::Here(Error::store(id, error, Effect::Unknown));
        match self.shared.load(id).await.map_err(unknown)? {
            Some(record) if missing.tells_apart(record.fingerprint, own) => Err(conflict()),
            Some(record) => match (landed, record.result()) {
                (Ok(settled), _) => Ok(settled),
                // A conflict of the leader need not be one of this call.
                (Err(error), Some(result)) if matches!(error.kind(), ErrorKind::Conflict) => {
                    Ok(Settled::replayed(result.clone(), record.attempt))
                }
                (Err(error), _) => Err(Unanswered::ByFlight(error)),
            },
            None => landed.map_err(Unanswered::ByFlight),
        }
    }
}
