//! [`Steps`]: what the work of a mutation runs its steps with.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::board::{Board, Found};
use super::step::{Most, Step, StepContext};
use crate::backoff::jittered;
use crate::idempotency::answer::answer_within;
use crate::idempotency::codec::{Codec, Json, Prepared, Sizes, decode, prepare};
use crate::idempotency::codec_error::CodecError;
use crate::idempotency::context::Context;
use crate::idempotency::shared::Shared;
use crate::idempotency::step_error::{Source, StepError, Stopped};
use crate::idempotency::workflow::Workflow;
use crate::record::{Decoded, FencingToken, RecordedResult, Verdict};
use crate::store::{StepId, StepRecord, StepStore, StoreError};
use crate::telemetry;
use crate::timer::{after, pause};

tokio::task_local! {
    /// The attempt in a transaction of which the code runs that is polled.
    pub(super) static WITHIN: usize;
}

/// How long the answer of a store that records a step is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The steps of a mutation, for the work of [`run_steps`](crate::Idempotency::run_steps). Clones share them.
///
/// They belong to one attempt. A task that the work spawns and does not wait for may outlive it: it gets
/// [`StepError::Ended`] then, and work that returns while a step runs has no result ([`StepError::Unawaited`]).
/// [`Context::is_lease_lost`] does not tell of that.
///
/// A step that is recorded is not run again: [`run`](Self::run) answers what it answered then. Steps are looked up by
/// their name and key, so they may run side by side:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::idempotency::Step;
/// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
/// # use std::io::Error;
/// # async fn label(_: String, line: u32) -> Result<String, Error> { Ok(format!("label {line}")) }
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /parcels"), "a7f3")?;
/// let reply = idem
///     .run_steps(id, &[1, 2], |steps| async move {
///         let first = steps.run(Step::new("label").key(1), |step| label(step.downstream_key(), 1));
///         let second = steps.run(Step::new("label").key(2), |step| label(step.downstream_key(), 2));
///         let (first, second) = tokio::try_join!(first, second)?;
///         Ok(vec![first, second])
///     })
///     .await?;
/// assert_eq!(*reply, ["label 1", "label 2"]);
/// # Ok(()) }
/// ```
pub struct Steps<S, C = Json> {
    pub(super) inner: Arc<Inner<S, C>>,
}

pub(super) struct Inner<S, C> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) codec: Arc<C>,
    pub(super) context: Context,
    pub(super) token: FencingToken,
    pub(super) workflow: Arc<Workflow>,
    pub(super) input: RecordedResult,
    pub(super) board: Board,
    /// Says when the completer that runs this is to stop.
    pub(super) stop: Option<watch::Receiver<bool>>,
}

impl<S, C> Steps<S, C> {
    /// Returns what the work knows of its execution.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.inner.context
    }
}

impl<S: StepStore, C> Steps<S, C> {
    /// The attempt has taken all the time that it may.
    pub(in crate::idempotency) fn ends_by(&self, limit: Duration) -> Stopped {
        self.inner.over(StepError::TimeLimit { limit })
    }

    /// Runs a step, unless it is recorded, and records what it answers.
    ///
    /// Everything that it answers by `Ok` is recorded: a charge that is declined for good is an answer as well, so let
    /// it be a value (`Ok(Err(declined))`, or a variant of an enum). An error is not recorded. It comes back as
    /// [`StepError::Failed`], and the next attempt runs the step again, under the same
    /// [downstream key](StepContext::downstream_key). By then it may turn out to have been done: a call that timed out
    /// may have landed. So the work stops by `?`, or tries the step again; a step that is asked for the first time behind
    /// one that failed is refused ([`StepError::Behind`]). To go on behind a failure, have it recorded:
    /// [`run_recording_errors`](Self::run_recording_errors).
    ///
    /// The step is run *at least once*: if its process dies before the step is recorded, the next attempt runs it again.
    /// That does no harm where what it calls honours the downstream key. Where it does not, see
    /// [`Step::at_most_once`]; for what is written to the store's own database, see [`run_in_tx`](Self::run_in_tx).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, PartialEq, Debug)]
    /// struct Declined(String);
    ///
    /// /// The call to your payment provider.
    /// async fn charge(_key: String) -> Result<Result<String, Declined>, std::io::Error> {
    ///     Ok(Err(Declined("insufficient funds".to_owned())))
    /// }
    ///
    /// # let idem = Idempotency::builder(MemoryStore::new()).build();
    /// # let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
    /// let reply = idem
    ///     .run_steps(id, &7, |steps| async move {
    ///         match steps.run("charge", |step| charge(step.downstream_key())).await? {
    ///             Ok(charge) => Ok(Ok(charge)),
    ///             // Give back what was reserved, in a step as well.
    ///             Err(declined) => Ok(Err(declined)),
    ///         }
    ///     })
    ///     .await?;
    /// assert_eq!(*reply, Err(Declined("insufficient funds".to_owned())));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Stopped`], whose [reason](Stopped::reason) says why. After any reason but [`StepError::Failed`] the attempt is
    /// at its end: no other step is run in it.
    ///
    /// # Panics
    ///
    /// A panic of the step is one of the work: every caller gets an error, and the next attempt runs the step again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the step's work is dropped with it, and was not recorded. It may be asked for again, and
    /// counts as failed until then. If it is dropped while the answer is being recorded, it cannot be asked for again in
    /// this attempt. One that is to be run [once at most](Step::at_most_once) is in doubt.
    pub async fn run<T, F, W, E>(&self, step: impl Into<Step>, work: F) -> Result<T, Stopped>
    where
        C: Codec<T>,
        F: FnOnce(StepContext) -> W,
        W: Future<Output = Result<T, E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (inner, step) = (&*self.inner, step.into());
        let mut running = match inner.ask(&step).await? {
            Found::Recorded(result) => return inner.recorded(&step.id, &result),
            Found::New(running) => running,
        };
        if step.most == Most::Once {
            running.begins_once();
            inner.record(&step, None).await?;
        }
        let context = StepContext::new(inner.context.clone(), step.id.clone());
        let worked = telemetry::in_step_span(inner.context.id(), &step.id, async { work(context).await });
        let value = match worked.await {
            Ok(value) => value,
            Err(source) => {
                let (step, source) = (step.clone(), Source::from(source.into()));
                if step.most == Most::Once {
                    // It may not be run again, so nobody will find out by that.
                    let (step, source) = (step.id, Some(source));
                    return Err(inner.over(StepError::InDoubt { step, source }));
                }
                running.failed(Arc::clone(&source));
                return Err(Stopped(StepError::Failed { step: step.id, source }));
            }
        };
        let (result, failed) = inner.prepare(&step.id, &value, Verdict::Performed).of_done();
        running.may_be_recorded();
        inner.record(&step, Some(result.clone())).await?;
        running.recorded();
        match failed {
            Some(source) => {
                let step = Some(step.id);
                Err(inner.over_lost(StepError::Codec { step, source }))
            }
            // Where it is too large, this says so.
            None => match result.decode() {
                Ok(Decoded::Value { .. }) => Ok(value),
                _ => inner.recorded(&step.id, &result),
            },
        }
    }

    /// Runs a step as [`run`](Self::run) does, under a name that is used more than once, with a key that tells it apart:
    /// short for `run(Step::new(name).key(key), work)`.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    pub async fn run_keyed<T, F, W, E>(&self, name: &str, key: impl fmt::Display, work: F) -> Result<T, Stopped>
    where
        C: Codec<T>,
        F: FnOnce(StepContext) -> W,
        W: Future<Output = Result<T, E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.run(Step::new(name).key(key), work).await
    }

    /// Runs a step as [`run`](Self::run) does, and records an error as well: its text, and those of its causes.
    ///
    /// The text is in the store from then on, and in the hands of the work, with whatever the errors say of hosts, keys or
    /// payloads. It is not meant for clients: do not reply with it. Where that matters, return a value of your own from
    /// [`run`](Self::run) instead.
    ///
    /// The error is the step's answer then. The next attempt gets the same one, and does not run the step again. So the
    /// work may go on behind it, with a step that undoes what can be undone for example. What the step did is not known
    /// better for that: a call that timed out may have landed, so what undoes it has to find that out.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// # use std::io::{Error, ErrorKind};
    /// # async fn charge(_: String) -> Result<String, Error> { Err(ErrorKind::TimedOut.into()) }
    /// # /// Has the charge of that key undone, if there is one.
    /// # async fn void(_: String) -> Result<(), Error> { Ok(()) }
    /// # let idem = Idempotency::builder(MemoryStore::new()).build();
    /// # let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
    /// let reply = idem
    ///     .run_steps(id, &7, |steps| async move {
    ///         let charged = steps.run_recording_errors("charge", |step| charge(step.downstream_key())).await?;
    ///         if charged.is_err() {
    ///             let charge = steps.context().downstream_key("charge");
    ///             steps.run("void", |_| void(charge)).await?;
    ///         }
    ///         Ok(charged.map_err(|_| "not charged".to_owned()))
    ///     })
    ///     .await?;
    /// assert_eq!(*reply, Err("not charged".to_owned()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), but never [`StepError::Failed`].
    ///
    /// # Panics
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    pub async fn run_recording_errors<T, F, W, E>(
        &self,
        step: impl Into<Step>,
        work: F,
    ) -> Result<Result<T, String>, Stopped>
    where
        C: Codec<Result<T, String>>,
        F: FnOnce(StepContext) -> W,
        W: Future<Output = Result<T, E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let recorded = |step| async {
            let worked = work(step).await;
            Ok::<_, Infallible>(worked.map_err(|error| told(&*error.into())))
        };
        self.run(step, recorded).await
    }

    /// Returns the input that the mutation was started with, as it is recorded.
    ///
    /// A completer's handler gets this one. A call has its own, which is the same if the identity's fingerprint tells
    /// payloads apart; without a fingerprint, use this one.
    ///
    /// # Errors
    ///
    /// [`StepError::Codec`] if it cannot be read as the type that is asked for.
    pub fn input<I>(&self) -> Result<I, Stopped>
    where
        C: Codec<I>,
    {
        let inner = &*self.inner;
        let decoded = value(&*inner.codec, &inner.input);
        decoded.map_err(|source| inner.over(StepError::Codec { step: None, source }))
    }
}

impl<S: StepStore, C> Inner<S, C> {
    /// Asks for a step, unless the attempt is at its end.
    pub(super) async fn ask(&self, step: &Step) -> Result<Found<'_>, Stopped> {
        if WITHIN.try_with(|board| *board == self.number()).unwrap_or(false) {
            let step = step.id.clone();
            return Err(self.over(StepError::Within { step }));
        }
        if self.context.is_lease_lost() && !self.is_held_after_all().await {
            return Err(self.over(StepError::LeaseLost));
        }
        let found = self.board.ask(step, self.workflow.max_steps).map_err(Stopped)?;
        match found {
            Found::New(running) if self.stop.as_ref().is_some_and(is_stopped) => {
                running.refuse();
                Err(self.over(StepError::Stopping))
            }
            found => Ok(found),
        }
    }

    /// A lease that was not renewed in time need not be another's: a transaction of ours may have been the only writer
    /// for longer than a lease.
    async fn is_held_after_all(&self) -> bool {
        let renewed = async {
            let store = &self.shared.store;
            store.renew(self.context.id(), self.token, self.shared.lease).await
        };
        answer_within(PATIENCE, renewed).await.is_ok()
    }

    /// The attempt is at its end, for this reason if for no earlier one.
    pub(super) fn over(&self, error: StepError) -> Stopped {
        Stopped(self.board.ends(error))
    }

    /// The same for a step that was done and whose answer is lost.
    fn over_lost(&self, error: StepError) -> Stopped {
        Stopped(self.board.ends_lost(error))
    }

    /// Encodes what a step answered, within the limits, and takes the room for it.
    pub(super) fn prepare<T>(&self, step: &StepId, value: &T, verdict: Verdict) -> Prepared
    where
        C: Codec<T>,
    {
        let left = self.board.left(self.workflow.max_bytes);
        let sizes = Sizes {
            most: self.shared.sizes.most.min(left),
            ..self.shared.sizes
        };
        let mut prepared = prepare(&*self.codec, value, verdict, sizes);
        if let Prepared::Kept(result) = &prepared {
            let size = result.as_bytes().len();
            // Steps that run beside it may have taken the room meanwhile.
            if let Err(limit) = self.board.reserve(size, self.workflow.max_bytes) {
                let size = size as u64;
                prepared = Prepared::TooLarge { size, limit };
            }
        }
        if let Prepared::TooLarge { size, limit } = prepared {
            telemetry::step_too_large(self.context.id(), step, size, limit);
        }
        prepared
    }

    /// Returns what a recorded step answered.
    pub(super) fn recorded<T>(&self, step: &StepId, result: &RecordedResult) -> Result<T, Stopped>
    where
        C: Codec<T>,
    {
        if let Ok(Decoded::TooLarge { size, limit }) = result.decode() {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let step = step.clone();
            return Err(self.over_lost(StepError::TooLarge { step, size, limit }));
        }
        value(&*self.codec, result).map_err(|source| {
            let is_lost = matches!(source, CodecError::NotRecorded);
            let step = Some(step.clone());
            let error = StepError::Codec { step, source };
            match is_lost {
                true => self.over_lost(error),
                // Other code may be able to read it.
                false => self.over(error),
            }
        })
    }

    /// Records a step, or that it begins. After an error that leaves open whether it is recorded, this records it again.
    pub(super) async fn record(&self, step: &Step, result: Option<RecordedResult>) -> Result<(), Stopped> {
        let record = StepRecord {
            id: step.id.clone(),
            input: step.input,
            result,
        };
        self.insist(record).await.map_err(|error| self.over(error))
    }

    /// Records a step, and again after an error that may pass.
    pub(super) async fn insist(&self, record: StepRecord) -> Result<(), StepError> {
        let (id, until) = (self.context.id(), after(self.shared.record_patience()));
        let mut tried = 0;
        loop {
            tried += 1;
            let recorded = async { self.shared.store.record_step(id, self.token, record.clone()).await };
            match answer_within(PATIENCE, recorded).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Outdated { .. }) => return Err(StepError::LeaseLost),
                Err(source) if !may_pass(&source) || (Instant::now() >= until && tried > 1) => {
                    let step = record.id;
                    return Err(StepError::Unrecorded { step, source });
                }
                Err(_) => pause(jittered(RETRY_PAUSE)).await,
            }
        }
    }
}

impl<S, C> Inner<S, C> {
    /// What tells this attempt from all others that run.
    pub(super) fn number(&self) -> usize {
        std::ptr::from_ref(&self.board).addr()
    }
}

/// Whether an error of the store's may be gone when it is asked again.
pub(super) fn may_pass(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Outdated { .. }
            | StoreError::Unsupported { .. }
            | StoreError::Corrupt { .. }
            | StoreError::InvalidName { .. }
            | StoreError::SchemaTooNew { .. }
    )
}

/// Returns the text of an error and of its causes.
fn told(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Whether a completer stops, or was dropped.
fn is_stopped(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Decodes a value.
fn value<T, C: Codec<T>>(codec: &C, result: &RecordedResult) -> Result<T, CodecError> {
    match result.decode().map_err(CodecError::Layout)? {
        Decoded::Value { codec: id, payload, .. } => decode(codec, id, payload),
        Decoded::TooLarge { .. } | Decoded::NotEncodable => Err(CodecError::NotRecorded),
    }
}

impl<S, C> Clone for Steps<S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S, C> fmt::Debug for Steps<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps")
            .field("workflow", &self.inner.workflow.name)
            .field("context", &self.inner.context)
            .finish_non_exhaustive()
    }
}
