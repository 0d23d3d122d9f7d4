//! The call that executes a mutation of several steps.

use std::future::Future;
use std::sync::Arc;

use super::execute::execute;
use super::handle::Steps;
use super::start::{Start, asked};
use crate::idempotency::codec::{Codec, Format, Prepared, Sizes, prepare};
use crate::idempotency::codec_error::CodecError;
use crate::idempotency::error::{Effect, Error, ErrorKind};
use crate::idempotency::reply::Reply;
use crate::idempotency::run::Idempotency;
use crate::idempotency::shared::Shared;
use crate::idempotency::step_error::{StepError, Stopped};
use crate::idempotency::workflow::Workflow;
use crate::identity::RequestIdentity;
use crate::record::{RecordedResult, Verdict};
use crate::store::{StartedBy, StepStore, Store};

/// Encodes an input, within the limits.
fn encoded<I, C: Codec<I>>(
    codec: &C,
    input: &I,
    workflow: &Workflow,
    sizes: Sizes,
) -> Result<RecordedResult, CodecError> {
    let sizes = Sizes {
        most: sizes.most.min(workflow.max_bytes),
        ..sizes
    };
    match prepare(codec, input, Verdict::Performed, sizes) {
        Prepared::Kept(input) => Ok(input),
        Prepared::Failed(error) => Err(error),
        Prepared::TooLarge { size, limit } => {
            let reason = format!("it has {size} bytes, over the limit of {limit}");
            Err(CodecError::Encode(
                Box::<dyn std::error::Error + Send + Sync>::from(reason).into(),
            ))
        }
    }
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Returns a copy whose [`run_steps`](Self::run_steps) starts this workflow: a name, or a [`Workflow`] with its
    /// version and bounds.
    ///
    /// The copy shares everything else, flights too. Mutations that have a name are taken up by a
    /// [completer](Self::completer) that has a handler of that name, if their client does not come back.
    ///
    /// ```
    /// use oneflight::idempotency::Workflow;
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let orders = idem.with_workflow("place_order");
    /// let refunds = idem.with_workflow(Workflow::new("refund").version("2"));
    /// # let _ = (orders, refunds);
    /// ```
    #[must_use]
    pub fn with_workflow(&self, workflow: impl Into<Workflow>) -> Self {
        let workflow = workflow.into();
        self.shared.announced.see(&workflow.name);
        let shared = Shared {
            workflow: Arc::new(workflow),
            ..self.shared.copy()
        };
        Self {
            shared: Arc::new(shared),
            ..self.clone()
        }
    }
}

impl<S: StepStore, C: Format> Idempotency<S, C> {
    /// Executes `work` in steps unless the request was executed before, and returns its result.
    ///
    /// What a finished step did is recorded under the claim, and is not done again: when an attempt stops or its process
    /// dies, the next call with the same identity goes on behind it, and so does a [completer](Self::completer) if
    /// there is a [name](Self::with_workflow). No [`Recovery`](crate::Recovery) is asked.
    ///
    /// The input is recorded with the claim, for a completer. It is encoded at once, so it may be gone when the future is
    /// polled.
    ///
    /// Give the identity a [fingerprint](RequestIdentity::with_fingerprint) of the payload, so that the same key with
    /// another payload is a conflict. Inputs are not compared, since the same input may be encoded in more than one way.
    /// So without a fingerprint, a call goes on with what another payload has begun: let such work take its input from
    /// [`Steps::input`], which is the recorded one.
    ///
    /// The work should do nothing but run steps, and decide by what they answer: between two steps it is run again with
    /// every attempt.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// # use std::io::Error;
    /// # async fn reserve(_: String) -> Result<u64, Error> { Ok(7) }
    /// # async fn charge(_: String) -> Result<String, Error> { Ok("ch_1".to_owned()) }
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let input = "tea".to_owned();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?.with_fingerprint(&input);
    /// let reply = idem
    ///     .run_steps(id, &input, |steps| async move {
    ///         let stock = steps.run("reserve", |step| reserve(step.downstream_key())).await?;
    ///         let charge = steps.run("charge", |step| charge(step.downstream_key())).await?;
    ///         Ok((stock, charge))
    ///     })
    ///     .await?;
    /// assert_eq!(*reply, (7, "ch_1".to_owned()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`Error`]. [`ErrorKind::Stopped`] says that the mutation stopped before its end: call again with the
    /// same identity to go on. [`ErrorKind::InDoubt`] says that it is held for a person.
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// Does not panic. A panic of the work is [`ErrorKind::Panicked`] for all callers, and the next call goes on.
    pub fn run_steps<'a, I, T, F, W>(
        &'a self,
        id: RequestIdentity,
        input: &I,
        work: F,
    ) -> impl Future<Output = Result<Reply<T>, Error>> + use<'a, I, T, F, W, S, C>
    where
        C: Codec<I> + Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Steps<S, C>) -> W + Send + 'static,
        W: Future<Output = Result<T, Stopped>> + Send + 'static,
    {
        let workflow = Arc::clone(&self.shared.workflow);
        let input = encoded(&*self.codec, input, &workflow, self.shared.sizes);
        async move {
            if !workflow.is_valid() {
                let error = ErrorKind::Stopped(StepError::InvalidName);
                let error = error.of(&id).with_effect(Effect::Nothing);
                error.tell();
                return Err(error);
            }
            let input = input.map_err(|source| {
                let error = ErrorKind::Stopped(StepError::Codec { step: None, source });
                error.of(&id).with_effect(Effect::Nothing)
            });
            let asked = asked(&workflow, input.inspect_err(Error::tell)?, StartedBy::Caller);
            let start = Start {
                workflow,
                asked,
                only: None,
                stop: None,
            };
            self.fly_steps(id, start, work).await
        }
    }

    /// Leads or joins the flight of a mutation of steps.
    pub(in crate::idempotency) async fn fly_steps<T, F, W>(
        &self,
        id: RequestIdentity,
        start: Start,
        work: F,
    ) -> Result<Reply<T>, Error>
    where
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Steps<S, C>) -> W + Send + 'static,
        W: Future<Output = Result<T, Stopped>> + Send + 'static,
    {
        let (shared, codec, of) = (Arc::clone(&self.shared), Arc::clone(&self.codec), id.clone());
        self.fly(id, move |progress| execute(shared, codec, of, progress, start, work))
            .await
    }
}
