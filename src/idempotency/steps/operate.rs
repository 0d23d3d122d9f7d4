//! What an operator does with mutations of steps: looks what is unfinished, lets it go on, or forks it.

use std::time::Duration;

use crate::idempotency::answer::answer_within;
use crate::idempotency::claim::told;
use crate::idempotency::codec::Format;
use crate::idempotency::error::{Effect, Error, ErrorKind};
use crate::idempotency::run::Idempotency;
use crate::identity::RequestIdentity;
use crate::store::{
    ClaimOutcome, ClaimRequest, Standing, StartedBy, StepStore, StoreError, UnfinishedQuery, UnfinishedSteps,
    WorkflowRecord, WorkflowStart,
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
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) if the store failed.
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
    /// Returns whether there was one. One that is not held goes on by itself, and is not harmed. To give a mutation up
    /// or to record its result, use [`resolve`](Self::resolve); [`Resolution::Rerun`](crate::Resolution::Rerun) there
    /// forgets its steps, so that it begins anew.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) if the store failed, or if another holder has taken over meanwhile.
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
        let resumed = answer_within(self.shared.answer_patience(), resumed).await;
        resumed.map_err(|error| Error::store(id, error, Effect::Unknown))?;
        Ok(true)
    }

    /// Starts a mutation of steps anew under another identity, with the input of the first and with the steps that were
    /// recorded there before the first one of the name `at`. That one and all after it are run again.
    ///
    /// It is for a person who has found that a step did the wrong thing. Its downstream keys are those of the new
    /// identity, so what is run again takes effect again: undo first what the old steps did. The old mutation, and its
    /// recorded answer, stay as they are.
    ///
    /// The fork is unfinished: a call with its identity goes on with it, or a completer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) if the store failed, and as for [`run`](Self::run) if the new
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
