//! Stores that keep the steps of a mutation: what passes through, the decision about a claim, and the [`StepStore`] trait.
//!
//! ```text
//! begin_steps ──granted──▶ record_step … record_step ──▶ complete            the record is completed, the steps stay
//!      ▲                        │                         └─▶ purged with it
//!      └──claimed again, with all steps, once the lease is over──┘
//! ```
//!
//! A mutation of steps is a record like any other, and beside it what it was started with: the name and version of its
//! workflow, its input, and the steps that are finished. These belong to the record for as long as both have the same
//! token. A claim that is made without steps draws a token of its own, so what stands beside that record is stale from
//! then on, and its holder writes nothing more. Only a claim [to resolve](super::claim::Purpose::Resolve) takes it along.
//!
//! Who may go on is decided by [`decide_steps`], in the same atomic step as the claim.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::claim::{Claim, ClaimOutcome, ClaimRequest, Decision, Denied, Takeover, decide};
use super::contract::Store;
use super::error::StoreError;
use super::transaction::{Ending, OpenTransaction, TransactionalStore};
use crate::identity::{Fingerprint, RequestIdentity};
use crate::record::{FencingToken, Record, RecordedResult, State};

/// Which step of a mutation: its name and, where a name is used more than once, its key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId {
    name: String,
    key: String,
}

impl StepId {
    /// Names a step. An empty key is none.
    #[must_use]
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key: empty if there is none.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Shows the key as it is: do not make one of what is secret.
impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}[{}]", self.name, self.key),
        }
    }
}

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepId({self})")
    }
}

/// What is kept of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// Which step.
    pub id: StepId,
    /// The digest of its input, if one was given.
    pub input: Option<Fingerprint>,
    /// What it answered. `None` if it was begun, was to be run once at most, and has not told what it did.
    pub result: Option<RecordedResult>,
}

/// What a mutation of steps is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowStart {
    /// The name of its workflow: empty if it has none, and then no completer takes it up.
    pub name: String,
    /// The version of the code that starts it.
    pub version: String,
    /// The other versions with which this code can go on.
    pub accepts: Vec<String>,
    /// The input, encoded.
    pub input: RecordedResult,
    /// The steps that it has from the start: those of the mutation that it is a fork of.
    pub steps: Vec<StepRecord>,
    /// Who asks.
    pub by: StartedBy,
}

/// Who asks for the claim of a mutation of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartedBy {
    /// A call: it starts the mutation, or goes on with it.
    Caller,
    /// A completer. It goes on with what another started, never starts anew, and its tries are counted.
    Completer,
}

impl WorkflowStart {
    /// Returns whether code that starts this can go on with a mutation of that name and version.
    #[must_use]
    pub fn goes_on_with(&self, name: &str, version: &str) -> bool {
        self.name == name && (self.version == version || self.accepts.iter().any(|it| it == version))
    }
}

/// What is known of a mutation of steps beside its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowRecord {
    /// The token of the claim under which it runs, or ran last. If the record has another one, this is stale.
    pub token: FencingToken,
    /// The name of its workflow.
    pub name: String,
    /// The version of the code that runs it, or ran it last.
    pub version: String,
    /// The input, encoded.
    pub input: RecordedResult,
    /// How often a completer took it up and did not hand it back.
    pub tries: u32,
    /// Whether it waits for a person's decision. What is completed does not.
    pub held: bool,
    /// Its steps, in the order in which they were recorded.
    pub steps: Vec<StepRecord>,
}

impl WorkflowRecord {
    /// Returns whether this belongs to a record: it was claimed for steps the last time.
    #[must_use]
    pub fn belongs_to(&self, record: &Record) -> bool {
        self.token == record.token
    }
}

/// Decides about the claim of a mutation of steps, given its record and what is known beside it, if any. Second in the
/// answer is whether the mutation goes on: otherwise what is known beside the record is to be replaced.
///
/// It is [`decide`], with two differences. A lease that is over is taken over only if what is known belongs to the
/// record, is not held, and is of a name and version with which this code goes on. And a completer starts nothing.
///
/// What goes on is of the version of the code that goes on with it, from then on. Its input stays the one that it was
/// begun with: the same value may be encoded otherwise by other code, so inputs are not compared. The fingerprint of the
/// identity tells payloads apart.
pub fn decide_steps(
    record: Option<Record>,
    known: Option<&WorkflowRecord>,
    request: &ClaimRequest,
    start: &WorkflowStart,
) -> (Decision, bool) {
    let mine = match (&record, known) {
        (Some(record), Some(known)) if known.belongs_to(record) => Some(known),
        _ => None,
    };
    let goes_on = |known: &WorkflowRecord| !known.held && start.goes_on_with(&known.name, &known.version);
    let in_progress = matches!(&record, Some(record) if matches!(record.state, State::InProgress { .. }));
    let mut request = request.clone();
    request.takeover = match (request.takeover, mine) {
        (Takeover::Expired, Some(known)) if goes_on(known) => Takeover::Of(known.token),
        (Takeover::Of(token), Some(known)) if known.token == token && goes_on(known) => Takeover::Of(token),
        _ => Takeover::Never,
    };
    match decide(record, &request) {
        Decision::Grant { .. } if start.by == StartedBy::Completer && !(in_progress && mine.is_some()) => {
            let denied = Denied::InDoubt {
                token: FencingToken::new(0),
                attempt: 1,
            };
            (Decision::Unchanged(ClaimOutcome::Denied(denied)), false)
        }
        decision => (decision, in_progress && mine.is_some()),
    }
}

/// A claim of a mutation of steps, and what is known of it: all its steps.
#[derive(Debug)]
#[must_use = "a claim must be completed or released"]
pub struct StepsClaim {
    /// The claim.
    pub claim: Claim,
    /// What the mutation was started with, and how far it has come.
    pub workflow: WorkflowRecord,
}

/// What becomes of a mutation of steps that is not at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A completer hands it back: this was no try.
    HandedBack,
    /// It waits for a person, since its holder cannot go on with it: nobody goes on with it.
    Held,
    /// It waits for a person, since nobody else is to go on with it: only set while its lease is over. A holder that was
    /// taken for dead may have come back.
    GivenUp,
    /// A person lets it go on, and completers count their tries anew.
    Resumed,
}

/// Which mutations of steps are looked for: those that nobody goes on with.
#[derive(Clone, Debug)]
pub struct UnfinishedQuery {
    /// The names of the workflows, each with the versions that are meant. `None` means all, those that are held or have
    /// no name as well, without regard to the pauses.
    pub kinds: Option<Vec<(String, Vec<String>)>>,
    /// How long a mutation is left alone after a completer's first try.
    pub first_pause: Duration,
    /// The longest pause: it doubles with every try up to this.
    pub longest_pause: Duration,
    /// How many are returned at most.
    pub limit: usize,
}

impl UnfinishedQuery {
    /// Asks for all.
    #[must_use]
    pub fn all(limit: usize) -> Self {
        Self {
            kinds: None,
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
            limit,
        }
    }

    /// Returns whether this asks for a mutation whose lease has been over for so long.
    #[must_use]
    pub fn asks_for(&self, known: &WorkflowRecord, since: Duration) -> bool {
        let Some(kinds) = &self.kinds else { return true };
        let is_meant = kinds
            .iter()
            .any(|(name, versions)| *name == known.name && versions.contains(&known.version));
        is_meant && !known.held && !known.name.is_empty() && since >= self.pause(known.tries)
    }

    /// Returns how long a mutation is left alone after so many tries.
    #[must_use]
    pub fn pause(&self, tries: u32) -> Duration {
        match tries {
            0 => Duration::ZERO,
            tries => self
                .first_pause
                .saturating_mul(1 << (tries - 1).min(30))
                .min(self.longest_pause),
        }
    }
}

/// A mutation of steps with which nobody goes on: the lease of its last holder is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnfinishedSteps {
    /// The request, with the fingerprint that it was claimed with.
    pub id: RequestIdentity,
    /// The token of its last holder.
    pub token: FencingToken,
    /// The name of its workflow.
    pub name: String,
    /// The version of the code that ran it last.
    pub version: String,
    /// How often a completer took it up.
    pub tries: u32,
    /// Whether it waits for a person's decision.
    pub held: bool,
    /// How long the lease has been over.
    pub since: Duration,
}

impl UnfinishedSteps {
    /// Makes one, as a store lists it.
    #[must_use]
    pub fn new(id: RequestIdentity, known: &WorkflowRecord, since: Duration) -> Self {
        Self {
            id,
            token: known.token,
            name: known.name.clone(),
            version: known.version.clone(),
            tries: known.tries,
            held: known.held,
            since,
        }
    }
}

/// A store that keeps the steps of mutations.
///
/// Purging a record, and releasing its claim, deletes its steps. What is unfinished and not held is not listed by
/// [`in_doubt`](Store::in_doubt): the next call, or a completer, goes on with it.
pub trait StepStore: Store {
    /// Claims as [`claim`](Store::claim) does, decides by [`decide_steps`], and writes down what the mutation is started
    /// with, in one atomic step. Answers with all steps that are recorded.
    ///
    /// Asking again as the same holder returns the same claim.
    ///
    /// # Errors
    ///
    /// As for [`claim`](Store::claim).
    fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> impl Future<Output = Result<ClaimOutcome<StepsClaim>, StoreError>> + Send;

    /// Records a step, in one write that checks the token. Recording the same step again with the same token changes
    /// nothing and succeeds; a step that has a result replaces one that has none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the token no longer holds the claim: nothing was recorded. Any other error leaves
    /// open whether it was; recording it again tells.
    fn record_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: StepRecord,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes down what a person has found out about a step that was begun: its answer, in place of whatever is recorded
    /// of it, or `None` if it was not done. Then it is deleted, unless it has a result, and is run again.
    ///
    /// Only of a mutation that is held, and while its lease is over: otherwise its holder may be about to tell. A step
    /// that is not there is left alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the mutation is not held, its lease runs, or the token no longer holds the claim.
    fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns what is known of a mutation of steps, or `None` if there is none, or what is known is stale.
    ///
    /// # Errors
    ///
    /// The store cannot be reached or understood.
    fn load_steps(
        &self,
        id: &RequestIdentity,
    ) -> impl Future<Output = Result<Option<WorkflowRecord>, StoreError>> + Send;

    /// Lists mutations of steps with which nobody goes on, the longest first. One that cannot be read is left out, and an
    /// event tells of it.
    ///
    /// # Errors
    ///
    /// The store cannot be reached or understood.
    fn unfinished_steps(
        &self,
        query: UnfinishedQuery,
    ) -> impl Future<Output = Result<Vec<UnfinishedSteps>, StoreError>> + Send;

    /// Sets what becomes of a mutation of steps that is in progress.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the token no longer holds the claim, or if it is to be [given up](Standing::GivenUp) and
    /// its lease runs, or it waits for a person already: of several who give it up, one does.
    fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A step that is run in a transaction of the store's.
#[derive(Clone, Debug)]
pub struct StepInTransaction {
    /// The request.
    pub request: RequestIdentity,
    /// The token of the claim.
    pub token: FencingToken,
    /// The number of the attempt.
    pub attempt: u32,
    /// Which step.
    pub id: StepId,
    /// The digest of its input, if one was given.
    pub input: Option<Fingerprint>,
}

/// A store in whose own transaction a step can run.
pub trait TransactionalStepStore: StepStore + TransactionalStore {
    /// Begins a transaction, runs the work in it, records the step in it, with the token checked, and ends it as the
    /// work says. The retention in [`Ending`] is ignored.
    ///
    /// The transaction ends, and escapes, as in [`transact`](TransactionalStore::transact). A commit whose answer is
    /// lost is looked up.
    ///
    /// # Errors
    ///
    /// As for [`transact`](TransactionalStore::transact), and [`StoreError::Outdated`] if the token no longer holds the
    /// claim: nothing was kept.
    fn transact_step<W, F, R>(
        &self,
        step: StepInTransaction,
        work: W,
    ) -> impl Future<Output = Result<R, StoreError>> + Send
    where
        W: FnOnce(OpenTransaction<Self::Connection, Self::Names>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static;
}

/// A shared store.
impl<S: StepStore> StepStore for Arc<S> {
    fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> impl Future<Output = Result<ClaimOutcome<StepsClaim>, StoreError>> + Send {
        S::begin_steps(self, request, start)
    }

    fn record_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: StepRecord,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::record_step(self, id, token, step)
    }

    fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::settle_step(self, id, token, step, answer)
    }

    fn load_steps(
        &self,
        id: &RequestIdentity,
    ) -> impl Future<Output = Result<Option<WorkflowRecord>, StoreError>> + Send {
        S::load_steps(self, id)
    }

    fn unfinished_steps(
        &self,
        query: UnfinishedQuery,
    ) -> impl Future<Output = Result<Vec<UnfinishedSteps>, StoreError>> + Send {
        S::unfinished_steps(self, query)
    }

    fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::set_standing(self, id, token, standing)
    }
}
