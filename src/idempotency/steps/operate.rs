//! What an operator does with mutations of steps: looks what is unfinished, lets it go on, or forks it.

use std::time::Duration;

use crate::idempotency::answer::answer_within;
use crate::idempotency::claim::told;
use crate::idempotency::codec::{Codec, Format, Prepared, prepare};
use crate::idempotency::error::{Effect, Error, ErrorKind};
use crate::idempotency::run::Idempotency;
use crate::identity::RequestIdentity;
use crate::record::{Decoded, RecordedResult, Verdict};
use crate::store::{
    ClaimOutcome, ClaimRequest, Standing, StartedBy, StepId, StepRecord, StepStore, StoreError, UnfinishedQuery,
    UnfinishedSteps, WorkflowRecord, WorkflowStart,
};

/// What became of a [fork](Idempotency::fork_steps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forked {
    /// It is there, with so many steps, and nobody has gone on with it so far.
    Begun {
        /// How many steps it has from the start.
        steps: usize,
    },
    /// There is no such mutation, or it has no step of that name.
    Absent,
    /// The mutation is not at its end, and nothing was begun: somebody goes on with it, or may.
    Unfinished,
}

/// Whether a step was done, and its answer is lost.
fn has_no_value(result: &RecordedResult) -> bool {
    matches!(result.decode(), Ok(Decoded::TooLarge { .. } | Decoded::NotEncodable))
}

impl<S: StepStore, C: Format> Idempotency<S, C> {
    /// Lists mutations of steps with which nobody goes on at the moment, the longest first: those that wait for a
    /// completer, those that are held, and those whose name or version no code knows any more.
    ///
    /// # Errors
    ///
    /// The store failed.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn unfinished_steps(&self, limit: usize) -> Result<Vec<UnfinishedSteps>, StoreError> {
        self.shared.store.unfinished_steps(UnfinishedQuery::all(limit)).await
    }

    /// Returns what is recorded of a mutation of steps, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] if the store failed.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn recorded_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, Error> {
        let loaded = async { self.shared.store.load_steps(id).await };
        let loaded = answer_within(self.shared.answer_patience(), loaded).await;
        loaded.map_err(|error| Error::store(id, error, Effect::Unknown))
    }

    /// Lets a mutation of steps that is held go on, behind its last recorded step. Completers count their tries anew.
    ///
    /// If a step is in doubt, say first what became of it ([`step_was_done`](Self::step_was_done),
    /// [`step_was_not_done`](Self::step_was_not_done)): otherwise it is held there again.
    ///
    /// Returns whether there was one that is not completed. One that is not held goes on by itself, and is not harmed. To
    /// give a mutation up
    /// or to record its result, use [`resolve`](Self::resolve); [`Resolution::Rerun`](crate::Resolution::Rerun) there
    /// forgets its steps, so that it begins anew.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] if the store failed, or if another holder has taken over meanwhile.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the mutation is held or goes on.
    pub async fn resume_steps(&self, id: &RequestIdentity) -> Result<bool, Error> {
        let Some(known) = self.recorded_steps(id).await? else {
            return Ok(false);
        };
        let resumed = async {
            let store = &self.shared.store;
            store.set_standing(id, known.token, Standing::Resumed).await
        };
        match answer_within(self.shared.answer_patience(), resumed).await {
            Ok(()) => Ok(true),
            Err(StoreError::Outdated { .. }) if self.is_completed(id).await? => Ok(false),
            Err(error) => Err(Error::store(id, error, Effect::Unknown)),
        }
    }

    /// Has a mutation of steps with which nobody goes on held, for a person: neither calls nor completers go on with it
    /// until it is [resumed](Self::resume_steps) or [resolved](Self::resolve).
    ///
    /// Returns whether it is held now. One whose holder's lease runs is left alone, and so is one that is completed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] if the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the mutation is held or as it was.
    pub async fn hold_steps(&self, id: &RequestIdentity) -> Result<bool, Error> {
        let Some(known) = self.recorded_steps(id).await? else {
            return Ok(false);
        };
        let held = async {
            let store = &self.shared.store;
            store.set_standing(id, known.token, Standing::GivenUp).await
        };
        match answer_within(self.shared.answer_patience(), held).await {
            Ok(()) => Ok(true),
            // Somebody goes on with it, or has it held already.
            Err(StoreError::Outdated { .. }) => {
                let known = self.recorded_steps(id).await?;
                Ok(known.is_some_and(|known| known.held))
            }
            Err(error) => Err(Error::store(id, error, Effect::Unknown)),
        }
    }

    async fn is_completed(&self, id: &RequestIdentity) -> Result<bool, Error> {
        let record = self.status(id).await?;
        Ok(record.is_some_and(|record| record.result().is_some()))
    }

    /// Records that a step which is in doubt was done, with this answer, as a person has found out. Let the mutation go on
    /// then ([`resume_steps`](Self::resume_steps)): its next attempt gets the answer.
    ///
    /// Returns whether there was such a step, of a mutation that is held: one that was begun and has no answer, or whose
    /// answer is lost, since it was too large or could not be encoded.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::Step;
    /// use oneflight::store::StepId;
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /letters"), "a7f3")?;
    /// let send = || {
    ///     idem.run_steps(id.clone(), &7, |steps| async move {
    ///         let fax = Step::new("fax").at_most_once();
    ///         steps.run(fax, |_| async { Err::<u32, _>("the line broke off") }).await
    ///     })
    /// };
    /// send().await.unwrap_err();
    ///
    /// // The recipient says that all 3 pages are there.
    /// assert!(idem.step_was_done(&id, &StepId::new("fax", ""), &3_u32).await?);
    /// idem.resume_steps(&id).await?;
    /// assert_eq!(*send().await?, 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Codec`] if the answer cannot be encoded, [`ErrorKind::ResultTooLarge`] if it is too large.
    /// * [`ErrorKind::InProgress`] while the lease of its last holder runs: that may be about to tell.
    /// * [`ErrorKind::Store`] if the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the step is recorded or still in doubt.
    pub async fn step_was_done<T>(&self, id: &RequestIdentity, step: &StepId, answer: &T) -> Result<bool, Error>
    where
        C: Codec<T>,
    {
        let result = match prepare(&*self.codec, answer, Verdict::Performed, self.shared.sizes) {
            Prepared::Kept(result) => result,
            Prepared::Failed(source) => return Err(Error::codec(id, source, Effect::Nothing)),
            Prepared::TooLarge { size, limit } => {
                return Err(ErrorKind::ResultTooLarge { size, limit }
                    .of(id)
                    .with_effect(Effect::Nothing));
            }
        };
        let is_lost = |there: &StepRecord| there.result.as_ref().is_none_or(has_no_value);
        self.settle_step(id, step, is_lost, Some(result)).await
    }

    /// Records that a step which is in doubt was not done, as a person has found out. Let the mutation go on then
    /// ([`resume_steps`](Self::resume_steps)): its next attempt runs the step.
    ///
    /// Returns whether there was such a step: one that was begun and has no answer, of a mutation that is held. Do not
    /// look too early: a call that was cut off may still land.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::InProgress`] while the lease of its last holder runs: that may be about to tell.
    /// * [`ErrorKind::Store`] if the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the step is forgotten or still in doubt.
    pub async fn step_was_not_done(&self, id: &RequestIdentity, step: &StepId) -> Result<bool, Error> {
        let has_not_told = |there: &StepRecord| there.result.is_none();
        self.settle_step(id, step, has_not_told, None).await
    }

    /// Settles a step of a mutation that is held. While it is not held, or the lease of its last holder runs, that one may be
    /// about to tell.
    async fn settle_step(
        &self,
        id: &RequestIdentity,
        step: &StepId,
        is_open: impl Fn(&StepRecord) -> bool,
        answer: Option<RecordedResult>,
    ) -> Result<bool, Error> {
        let Some(known) = self.recorded_steps(id).await?.filter(|known| known.held) else {
            return Ok(false);
        };
        if !known.steps.iter().any(|there| there.id == *step && is_open(there)) {
            return Ok(false);
        }
        let left = self.status(id).await?.and_then(|record| record.lease_remaining());
        if let Some(retry_after) = left.filter(|left| !left.is_zero()) {
            return Err(ErrorKind::InProgress { retry_after }.of(id));
        }
        // Looked at once more there.
        let settled = async { self.shared.store.settle_step(id, known.token, step, answer).await };
        let settled = answer_within(self.shared.answer_patience(), settled).await;
        settled.map_err(|error| Error::store(id, error, Effect::Unknown))?;
        Ok(true)
    }

    /// Starts a mutation of steps anew under another identity, with the input of the first and with the steps that were
    /// recorded there before the first one of the name `at`. That one and all after it are run again.
    ///
    /// It is for a person who has found that a step did the wrong thing. Its downstream keys are those of the new
    /// identity, so what is run again takes effect again: undo first what the old steps did. The old mutation, and its
    /// recorded answer, stay as they are.
    ///
    /// The old mutation is completed, or held by [`hold_steps`](Self::hold_steps) for example, and nobody's lease on it runs.
    /// Otherwise both would go on ([`Forked::Unfinished`]). One that is held stays so: [resolve](Self::resolve) it.
    ///
    /// The fork is unfinished: a call with its identity goes on with it, or a completer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] if the store failed, and as for [`run`](Self::run) if the new
    /// identity is in use.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the fork is there as a whole or not at all.
    pub async fn fork_steps(&self, from: &RequestIdentity, to: &RequestIdentity, at: &str) -> Result<Forked, Error> {
        let Some(known) = self.recorded_steps(from).await? else {
            return Ok(Forked::Absent);
        };
        let Some(before) = known.steps.iter().position(|step| step.id.name() == at) else {
            return Ok(Forked::Absent);
        };
        let is_at_its_end = self.status(from).await?.is_some_and(|record| {
            let is_over = record.lease_remaining().is_none_or(|left| left.is_zero());
            record.token == known.token && is_over && (known.held || record.result().is_some())
        });
        if !is_at_its_end {
            return Ok(Forked::Unfinished);
        }
        let mut steps = known.steps;
        steps.truncate(before);
        let start = WorkflowStart {
            name: known.name,
            version: known.version,
            accepts: Vec::new(),
            input: known.input,
            steps,
            by: StartedBy::Caller,
        };
        // No lease: it is unfinished at once.
        let begun = async {
            let request = ClaimRequest::new(to, Duration::ZERO);
            self.shared.store.begin_steps(request, start).await
        };
        let begun = answer_within(self.shared.answer_patience(), begun).await;
        match begun.map_err(|error| Error::store(to, error, Effect::Unknown))? {
            ClaimOutcome::Granted(_) => Ok(Forked::Begun { steps: before }),
            ClaimOutcome::Denied(denied) => {
                told(to, denied)?;
                // It is completed: something else.
                Err(ErrorKind::Conflict.of(to))
            }
        }
    }
}
