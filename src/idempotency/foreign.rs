//! One execution in a transaction that another driver has begun, and commits.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::claim::told;
use super::codec::{Codec, Format, Prepared, prepare};
use super::context::Context;
use super::downstream::downstream_key;
use super::error::{Effect, Error, ErrorKind};
use super::missing::MissingFingerprint;
use super::progress::retry_after;
use super::recovery::Recovery;
use super::reply::Reply;
use super::run::Idempotency;
use super::settled::Settled;
use super::shared::Shared;
use crate::group::Role;
use crate::identity::RequestIdentity;
use crate::outbox::{Message, SendError};
use crate::record::Verdict;
use crate::store::outbox::Sent;
use crate::store::{
    ClaimOutcome, ClaimRequest, Decision, Denied, ForeignStatement, ForeignTransaction, Store, StoreError, Takeover,
    decide, read_sent,
};

/// One execution in a transaction that another driver has begun, and commits: what a program that does not use the store's own
/// driver has to run there, and what the answers mean. Made by [`Idempotency::in_foreign`].
///
/// ```text
/// begin ──▶ decide ──▶ a reply, or an error
///              └─ granted ──▶ claimed ──▶ the work ──▶ record ──▶ recorded: all that is missing is the commit
///                                            └─ failed: undo, and its error
/// ```
///
/// It does not wait for other holders, and asks no [policy](Recovery::Ask): both would take time in which the
/// transaction is open.
pub struct Foreign<S, C> {
    shared: Arc<Shared<S>>,
    codec: Arc<C>,
    id: RequestIdentity,
    transaction: Box<dyn ForeignTransaction>,
    attempt: u32,
    /// How many messages of each step, and of each topic those that have no step of their own.
    steps: HashMap<Arc<str>, u32>,
}

/// What [`Foreign::decide`] comes to.
#[derive(Debug)]
pub enum Decided<T> {
    /// The request was completed earlier.
    Replayed(Reply<T>),
    /// The work is to be run, after these statements.
    Granted(Vec<ForeignStatement>),
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Executes a request in a transaction that another driver has begun. `transaction` makes the store's part of it.
    pub fn in_foreign(
        &self,
        id: RequestIdentity,
        transaction: impl FnOnce(ClaimRequest) -> Box<dyn ForeignTransaction>,
    ) -> Foreign<S, C> {
        let takeover = match self.shared.recovery {
            Recovery::Rerun => Takeover::Expired,
            Recovery::Hold | Recovery::Ask(_) => Takeover::Never,
        };
        let request = ClaimRequest::new(&id, self.shared.lease).takeover(takeover);
        Foreign {
            shared: Arc::clone(&self.shared),
            codec: Arc::clone(&self.codec),
            id,
            transaction: transaction(request),
            attempt: 1,
            steps: HashMap::new(),
        }
    }
}

impl<S: Store, C: Format> Foreign<S, C> {
    /// Says how many calls this one is inside of, in the same transaction: the work of one may make others, one after the other. 0
    /// unless said.
    pub fn nest(&mut self, depth: u32) {
        self.transaction.nest(depth);
    }

    /// Returns what is run first.
    #[must_use]
    pub fn begin(&self) -> Vec<ForeignStatement> {
        self.transaction.begin()
    }

    /// Decides by the answer to [`begin`](Self::begin). Nothing has to be undone. It is called on a runtime.
    ///
    /// # Errors
    ///
    /// As for [`Idempotency::run_in_tx`].
    pub fn decide<T>(&mut self, answer: &str) -> Result<Decided<T>, Error>
    where
        C: Codec<T>,
        T: Send + Sync + 'static,
    {
        let record = self.transaction.read(answer).map_err(|error| self.failed(error))?;
        let missing = self.shared.missing_fingerprint;
        if let Some(record) = &record
            && missing != MissingFingerprint::Conflict
            && !missing.tells_apart(record.fingerprint, self.id.fingerprint())
        {
            self.transaction.request().id = self.id.known_as(record.fingerprint);
        }
        let denied = match decide(record, self.transaction.request()) {
            Decision::Grant { attempt, took_over } => match self.transaction.grant(attempt, took_over) {
                Ok(statements) => {
                    self.attempt = attempt;
                    return Ok(Decided::Granted(statements));
                }
                Err(denied) => denied,
            },
            // A claim of this very holder: it was drawn for this call alone.
            Decision::Unchanged(ClaimOutcome::Granted(claim)) => Denied::InDoubt {
                token: claim.token(),
                attempt: claim.attempt(),
            },
            Decision::Unchanged(ClaimOutcome::Denied(denied)) => denied,
        };
        let denied = match denied {
            Denied::InProgress {
                lease_remaining,
                attempt,
            } => Denied::InProgress {
                lease_remaining: retry_after(lease_remaining),
                attempt,
            },
            denied => denied,
        };
        let record = told(&self.id, denied)?;
        let Some(result) = record.result() else {
            let what = "a completed record has no result";
            return Err(self.failed(StoreError::Corrupt { what }));
        };
        let settled = Settled::replayed(result.clone(), record.attempt);
        let reply = settled.reply(&*self.codec, &self.id, Role::Leader)?;
        Ok(Decided::Replayed(reply))
    }

    /// Returns what tells the transaction from all others that are open, where the store can tell once it has decided. Calls that have
    /// it in common, and of which none was made in the work of the other, would undo each other's rows.
    #[must_use]
    pub fn transaction(&self) -> Option<&str> {
        self.transaction.transaction()
    }

    /// Reads the answer to the statements of a grant, if there is one. Returns what the work is told.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: the answer is none. What follows is [`undo`](Self::undo).
    pub fn claimed(&mut self, answer: Option<&str>) -> Result<Context, Error> {
        self.transaction.granted(answer).map_err(|error| self.failed(error))?;
        Ok(Context::new(self.id.clone(), self.attempt, None))
    }

    /// Returns what sends a message with the commit, under the key that [`Tx::send`](super::Tx::send) derives. It is called on a runtime.
    ///
    /// # Errors
    ///
    /// [`SendError`] if the message is not valid, or its step was sent before.
    pub fn send(&mut self, message: Message) -> Result<Vec<ForeignStatement>, SendError> {
        let mut steps = self.steps.clone();
        let step = message.step_or(&mut steps)?;
        let message = message.ready(Some(&downstream_key(&self.id, &step)))?;
        self.steps = steps;
        Ok(self.transaction.send(&message))
    }

    /// Reads the answer to a message.
    ///
    /// # Errors
    ///
    /// The answer is none.
    pub fn sent(&self, answer: Option<&str>) -> Result<Sent, SendError> {
        answer.and_then(read_sent).ok_or_else(SendError::unanswered)
    }

    /// Returns what records the value of the work.
    ///
    /// # Errors
    ///
    /// The value cannot be encoded, or is too large. What follows is [`undo`](Self::undo).
    pub fn record<T>(&self, value: &T) -> Result<Vec<ForeignStatement>, Error>
    where
        C: Codec<T>,
    {
        match prepare(&*self.codec, value, Verdict::Performed, self.shared.sizes) {
            Prepared::Kept(result) => Ok(self.transaction.record(&result, self.shared.retention)),
            Prepared::TooLarge { size, limit } => Err(ErrorKind::ResultTooLarge { size, limit }
                .of(&self.id)
                .with_effect(Effect::Nothing)),
            Prepared::Failed(source) => Err(Error::codec(&self.id, source, Effect::Nothing)),
        }
    }

    /// Reads the answer to [`record`](Self::record). Returns what is run last.
    ///
    /// # Errors
    ///
    /// * [`StoreError::CommittedByWork`]: the work has ended the transaction. What follows is [`hold`](Self::hold).
    /// * Otherwise nothing is recorded, and what follows is [`undo`](Self::undo).
    pub fn recorded(&self, answer: Option<&str>) -> Result<Vec<ForeignStatement>, Error> {
        let last = self.transaction.recorded(answer).map_err(|error| match error {
            StoreError::CommittedByWork => self.ended(),
            error => self.failed(error),
        })?;
        if !self.steps.is_empty() {
            // Before the commit: a relay that finds nothing looks again soon.
            self.transaction.bell().ring_early();
        }
        Ok(last)
    }

    /// Returns what undoes all since the [grant](Decided::Granted). If it fails, the transaction is over, by an error of the driver or by the
    /// work: see [`is_ended`](Self::is_ended).
    #[must_use]
    pub fn undo(&self) -> Vec<ForeignStatement> {
        self.transaction.undo()
    }

    /// Returns whether the work has ended the transaction, once [`undo`](Self::undo) has failed. If something `failed`, the work or
    /// the driver, only what is known to be committed counts.
    pub async fn is_ended(&self, failed: bool) -> bool {
        self.transaction.is_ended(failed).await
    }

    /// Leaves the request in doubt, since the work has ended the transaction.
    pub async fn hold(&self) {
        self.transaction.hold().await;
    }

    /// The error of work that has ended the transaction.
    #[must_use]
    pub fn ended(&self) -> Error {
        Error::store(&self.id, StoreError::CommittedByWork, Effect::Unknown)
    }

    fn failed(&self, error: StoreError) -> Error {
        Error::store(&self.id, error, Effect::Nothing)
    }
}

impl<S, C> fmt::Debug for Foreign<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign")
            .field("attempt", &self.attempt)
            .field("transaction", &self.transaction)
            .finish_non_exhaustive()
    }
}
