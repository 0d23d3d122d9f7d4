//! How a claim ends: recorded, given back, or left in doubt.
//!
//! ```text
//!           ┌──record───▶ completed     not given up easily: the work is done
//! claimed ──┼──release──▶ new again     nothing was done, and no earlier attempt is in doubt
//!           └──let go───▶ in doubt      once what it left has settled, or at once: the lease is set to that
//! ```
//!
//! This file asks the store for the end of a claim, and again after an error. The states of the claim say which end it
//! is to be.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::case::Case;
use crate::backoff::jittered;
use crate::group;
use crate::idempotency::answer::may_have_landed;
use crate::idempotency::codec::bounded;
use crate::idempotency::error::{Error, ErrorKind};
use crate::idempotency::recovery::Encoded;
use crate::idempotency::shared::Shared;
use crate::identity::RequestIdentity;
use crate::record::{HolderId, RecordedResult, State, Verdict};
use crate::store::{Claim, Store, StoreError};
use crate::telemetry;
use crate::timer::{self, after, pause, within};

/// How often a claim is tried to be given back, let go, or found.
const RELEASE_TRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the end of a claim is waited for before its caller is told. It goes on all the same.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// Records the result. The work is done, so this does not give up easily: after an error it looks up what became of the
/// attempt before it tries again. If it gives up, the error is the one after which the result may be recorded, if there
/// was such an error.
pub(super) async fn record<S: Store>(shared: &Shared<S>, claim: &Claim, result: &RecordedResult) -> Result<(), Error> {
    let id = claim.id();
    let until = after(shared.record_patience());
    let mut landed = None;
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match shared.complete(claim, result).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Outdated { .. }) => return Err(ErrorKind::LeaseLost.of(id)),
            Err(error) => error,
        };
        // The result is recorded, but not where it is wanted; looking would not tell.
        let too_few = matches!(error, StoreError::TooFewReplicas { .. });
        match shared.load(id).await {
            Ok(Some(record)) if record.token == claim.token() => match record.state {
                State::Completed { .. } if too_few => {}
                State::Completed { .. } => return Ok(()),
                State::InProgress { .. } => {}
            },
            Ok(_) => return Err(ErrorKind::LeaseLost.of(id)),
            Err(_) => {}
        }
        // A single try may have taken all the time.
        if Instant::now() >= until && tried > 1 {
            let error = landed.unwrap_or(error);
            telemetry::unrecorded(id, &error);
            return Err(ErrorKind::Unrecorded(error).of(id));
        }
        if too_few || (landed.is_none() && may_have_landed(&error)) {
            landed = Some(error);
        }
        pause(jittered(RETRY_PAUSE)).await;
    }
}

/// Records a result that a policy or an operator has found out.
pub(in crate::idempotency) async fn record_known<S: Store>(
    shared: &Shared<S>,
    claim: &Claim,
    encoded: &Encoded,
) -> Result<RecordedResult, Error> {
    let (result, _) = bounded(&encoded.bytes, encoded.codec, Verdict::Performed, shared.sizes).of_done();
    record(shared, claim, &result).await?;
    Ok(result)
}

/// Ends a claim under which nothing was done. That says nothing of the attempts before it, so only a first attempt
/// makes the identity new; a later one leaves the doubt as it was. Returns whether it is done.
pub(super) async fn give_up<S: Store>(shared: &Shared<S>, claim: &Claim) -> bool {
    match claim.attempt() {
        1 => release(shared, claim).await,
        _ => let_go(shared, claim, Duration::ZERO).await,
    }
}

/// Gives the claim back. If that fails, which `false` says, the request is in doubt when the lease ends.
async fn release<S: Store>(shared: &Shared<S>, claim: &Claim) -> bool {
    let mut tried = 0;
    loop {
        tried += 1;
        match shared.release(claim).await {
            // Outdated: it was given back already, or taken over. Either way it is not ours any more. With too few
            // replicas, it is given back all the same.
            Ok(()) | Err(StoreError::Outdated { .. } | StoreError::TooFewReplicas { .. }) => return true,
            Err(error) if tried >= RELEASE_TRIES => {
                telemetry::not_released(claim.id(), &error);
                return false;
            }
            Err(_) => pause(retry_pause(tried)).await,
        }
    }
}

/// Lets the lease end after `settle`, whatever is left of it: until then the request counts as in progress, and after
/// that as in doubt. While that is to come, this does not give up: a lease that ends before would have a policy asked
/// too early.
pub(super) async fn let_go<S: Store>(shared: &Shared<S>, claim: &Claim, settle: Duration) -> bool {
    let over = Instant::now();
    let mut tried = 0;
    loop {
        tried += 1;
        let left = settle.saturating_sub(over.elapsed());
        match shared.end_lease(claim, left).await {
            Ok(()) | Err(StoreError::Outdated { .. } | StoreError::TooFewReplicas { .. }) => return true,
            Err(error) if tried >= RELEASE_TRIES && left.is_zero() => {
                telemetry::not_released(claim.id(), &error);
                return false;
            }
            Err(_) => pause(retry_pause(tried)).await,
        }
    }
}

/// Looks for a claim that may have been granted without an answer, and ends it: its work has not begun and never will.
/// Returns whether nothing is left of it.
pub(super) async fn disown<S: Store>(shared: &Shared<S>, id: &RequestIdentity, holder: HolderId) -> bool {
    let mut tried = 0;
    loop {
        tried += 1;
        match shared.load(id).await {
            Ok(Some(record)) if record.holder == holder && record.result().is_none() => {
                let claim = Claim::new(id.clone(), record.token, record.attempt, None);
                return give_up(shared, &claim).await;
            }
            // The latter is said of a result, and then there is no claim.
            Ok(_) | Err(StoreError::TooFewReplicas { .. }) => return true,
            Err(error) if tried >= RELEASE_TRIES => {
                telemetry::not_released(id, &error);
                return false;
            }
            Err(_) => pause(retry_pause(tried)).await,
        }
    }
}

/// Longer each time, so that a store which is restarted is found again.
fn retry_pause(tried: u32) -> Duration {
    jittered(RETRY_PAUSE * (1 << (2 * tried.min(RELEASE_TRIES))))
}

/// A claim whose end a task of its own sees to. The task goes on if nothing waits for it, and [`drain`] waits for it.
///
/// [`drain`]: crate::idempotency::Idempotency::drain
pub(super) struct Ending(JoinHandle<bool>);

impl Ending {
    /// Has a task see to an end, which returns whether nothing is left of the claim.
    ///
    /// The task runs where this is called, since the runtime on which the flight began may be gone. It runs on that one
    /// where no runtime with timers is, since stores need them.
    pub(super) fn of<S>(case: &Case<S>, end: impl Future<Output = bool> + Send + 'static) -> Self {
        let runtime = timer::runtime().unwrap_or_else(|_| case.runtime.clone());
        let ends = &case.shared.ends;
        ends.send_modify(|ends| *ends += 1);
        let under_way = UnderWay {
            ends: ends.clone(),
            id: case.id.clone(),
            is_over: false,
        };
        Self(runtime.spawn(telemetry::in_current_span(async move {
            let ended = end.await;
            under_way.ends();
            ended
        })))
    }

    /// Waits for the task, for a while. Returns whether nothing is left of the claim so far.
    pub(super) async fn waited_for(self) -> bool {
        matches!(within(GIVING_BACK, self.0).await, Some(Ok(true)))
    }
}

/// The end of a claim that is under way. If this is dropped before that is over, there was no runtime for it.
struct UnderWay {
    ends: watch::Sender<usize>,
    id: RequestIdentity,
    is_over: bool,
}

impl UnderWay {
    fn ends(mut self) {
        self.is_over = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_over {
            telemetry::not_released(&self.id, &group::Error::NoRuntime);
        }
        self.ends.send_modify(|ends| *ends -= 1);
    }
}
