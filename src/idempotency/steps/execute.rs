//! One attempt at a mutation of steps: claim, work, complete. All of it is the work of one flight.
//!
//! ```text
//! claimed ──work answers──▶ every recorded step was asked for ──▶ complete ──▶ recorded
//!    │                        └─ no: stopped
//!    ├──work stops, or panics──▶ lease ends when it has settled ──▶ unfinished: anyone may go on
//!    │                             ├─ the completer stops: that was no try
//!    │                             └─ a step is in doubt, or its answer is lost: held
//!    └──process dies──▶ lease runs out ──▶ unfinished
//! ```

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::board::Board;
use super::claims::Claims;
use super::handle::{Inner, RETRY_PAUSE, Steps, may_pass};
use super::start::Start;
use crate::backoff::jittered;
use crate::flight::Panicked;
use crate::idempotency::answer::answer_within;
use crate::idempotency::claim::{Acquire, Acquired, Case};
use crate::idempotency::codec::{Codec, prepare};
use crate::idempotency::context::Context;
use crate::idempotency::error::{Effect, Error, ErrorKind};
use crate::idempotency::progress::Progress;
use crate::idempotency::recovery::Recovery;
use crate::idempotency::settled::Settled;
use crate::idempotency::shared::Shared;
use crate::idempotency::step_error::{StepError, Stopped};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Verdict};
use crate::store::{Standing, StepStore, StoreError, WorkflowStart};
use crate::telemetry;
use crate::telemetry::steps::{HeldFor, StepCounts};
use crate::timer::{after, pause};
use crate::unwind::catch;

/// The work of a flight.
pub(super) async fn execute<S, C, T, F, W>(
    shared: Arc<Shared<S>>,
    codec: Arc<C>,
    id: RequestIdentity,
    progress: Arc<Progress>,
    start: Start,
    work: F,
) -> Result<Settled, Error>
where
    S: StepStore,
    C: Codec<T>,
    T: Send + Sync + 'static,
    F: FnOnce(Steps<S, C>) -> W + Send + 'static,
    W: Future<Output = Result<T, Stopped>> + Send + 'static,
{
    let Start {
        workflow,
        asked,
        only,
        stop,
    } = start;
    let claims = Claims::new(Arc::clone(&shared.store), asked.clone(), only);
    // A dead holder is no reason to hold: its finished steps are known. The store sees to it that it is one of steps.
    let over = Arc::new(shared.over(claims, Recovery::Rerun));
    let case = Case::open(&over, &id)?;
    let mut held = match Acquire::new(&case, &progress).claim().await {
        Ok(Acquired::Granted(granted)) => granted.begin(),
        Ok(Acquired::Settled(settled)) => return Ok(settled.shared_as(&*codec)),
        Err(error) => return Err(explained(&shared, &asked, error).await),
    };
    let Some(granted) = over.store.granted().filter(|granted| granted.token == held.token()) else {
        held.release().await;
        let what = "a mutation of steps was granted without them, or with those of another claim";
        return Err(Error::store(&id, StoreError::Corrupt { what }, Effect::Nothing));
    };
    let attempt = held.attempt();
    let token = granted.token;
    let counts = StepCounts::new(&granted.name);
    let inner = Arc::new(Inner {
        shared: Arc::clone(&shared),
        codec: Arc::clone(&codec),
        context: Context::new(id.clone(), attempt, Some(held.view())),
        token,
        workflow,
        board: Board::new(granted.steps, &granted.input, counts.clone()),
        input: granted.input,
        stop,
    });
    progress.work();
    let steps = Steps {
        inner: Arc::clone(&inner),
    };
    // The closure is called inside, so that its panic is caught as well.
    let open = Open(Arc::clone(&inner));
    let worked = held.during(pin!(catch(async move { work(steps).await }))).await;
    let value = match worked {
        Ok(Ok(value)) => open.close(Ok(())).map(|()| value),
        Ok(Err(Stopped(stopped))) => open.close(Err(stopped)).and(Err(StepError::Ended)),
        Err(panic) => {
            drop(open);
            held.leave_in_doubt().await;
            let panic = Panicked::from_payload(panic);
            let message = panic.message().to_owned();
            ErrorKind::Panicked(panic).of(&id).tell();
            resume_unwind(Box::new(message))
        }
    };
    match value {
        Ok(value) => {
            let (result, failed) = prepare(&*codec, &value, Verdict::Performed, shared.sizes).of_done();
            held.complete(&result).await?;
            match failed {
                // The first time with the reason; a replay can only say that there was one.
                Some(source) => Err(Error::codec(&id, source, Effect::Done)),
                None => Ok(Settled::executed(Some(Arc::new(value)), result, attempt)),
            }
        }
        Err(stopped) => {
            let standing = match stopped {
                StepError::Stopping => Some(Standing::HandedBack),
                StepError::InDoubt { .. } => Some(Standing::Held),
                // Every attempt would end there.
                StepError::TooLarge { .. } | StepError::Codec { .. } if inner.board.is_lost() => Some(Standing::Held),
                _ => None,
            };
            if let Some(standing) = standing {
                match stand(&shared, &id, token, standing).await {
                    Ok(()) if standing == Standing::Held => counts.held(HeldFor::Step),
                    Ok(()) => counts.handed_back(),
                    Err(error) => telemetry::not_released(&id, &error),
                }
            }
            held.leave_in_doubt().await;
            Err(ErrorKind::Stopped(stopped).of(&id))
        }
    }
}

/// An attempt whose work runs. When this is dropped, no step is begun in it any more, by no clone of them.
struct Open<S, C>(Arc<Inner<S, C>>);

impl<S, C> Open<S, C> {
    fn close(self, worked: Result<(), StepError>) -> Result<(), StepError> {
        self.0.board.close(worked, &self.0.workflow.retired)
    }
}

impl<S, C> Drop for Open<S, C> {
    fn drop(&mut self) {
        let _ = self.0.board.close(Err(StepError::Ended), &[]);
    }
}

/// Sets what becomes of a mutation, and again after an error. If it fails in the end, the next attempt of one that is to
/// be held comes to the same: the step that is in doubt is recorded as begun.
async fn stand<S: StepStore>(
    shared: &Shared<S>,
    id: &RequestIdentity,
    token: FencingToken,
    standing: Standing,
) -> Result<(), StoreError> {
    let until = after(shared.record_patience());
    loop {
        let set = async { shared.store.set_standing(id, token, standing).await };
        match answer_within(shared.answer_patience(), set).await {
            Err(error) if may_pass(&error) && Instant::now() < until => {
                pause(jittered(RETRY_PAUSE)).await;
            }
            set => return set,
        }
    }
}

/// Says why a mutation of steps is not gone on with, if it is because of this code.
async fn explained<S: StepStore>(shared: &Shared<S>, asked: &WorkflowStart, error: Error) -> Error {
    if !matches!(error.kind(), ErrorKind::InDoubt { .. }) {
        return error;
    }
    let loaded = async { shared.store.load_steps(error.identity()).await };
    match answer_within(shared.answer_patience(), loaded).await {
        Ok(Some(known)) if !known.held && !asked.goes_on_with(&known.name, &known.version) => {
            let (name, version, asked) = (known.name, known.version, asked.name.clone());
            ErrorKind::Stopped(StepError::OtherWorkflow { name, version, asked }).of(error.identity())
        }
        Ok(_) | Err(_) => error,
    }
}
