//! One execution outside of a transaction: claim, work, complete. All of it is one flight's work.
//!
//! ```text
//! claimed ──work answers──▶ complete ──▶ recorded
//!    │  │                      └─ answer lost: look up, then again, until the lease would have ended
//!    │  └──work did nothing──▶ release ──▶ new again
//!    ├─────work panics───────▶ lease ends at once ──▶ in doubt, and the panic goes on to the callers
//!    └─────process dies──────▶ lease runs out ──▶ in doubt
//! ```

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::approach::{Approach, Step, after, jittered};
use super::codec::{Prepared, prepare};
use super::context::Context;
use super::error::{CodecError, Effect, Error, NotDone};
use super::lease::Lease;
use super::settled::Settled;
use super::unwind::catch;
use crate::group;
use crate::identity::RequestId;
use crate::record::{FencingToken, RecordedResult, State, Verdict};
use crate::store::{Claim, Store, StoreError};
use crate::telemetry;

/// How long, at least, a result is tried to be recorded when the store fails.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// How often a claim is tried to be given back, or to be let go.
const RELEASE_TRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The work of a flight.
pub(super) async fn execute<S, T, F, W>(shared: Arc<Shared<S>>, id: RequestId, work: F) -> Result<Settled, Error>
where
    S: Store,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce(Context) -> W + Send + 'static,
    W: Future<Output = Result<T, NotDone>> + Send + 'static,
{
    let runtime = Handle::try_current().map_err(|_| Error::Flight {
        id: id.clone(),
        source: group::Error::NoRuntime,
    })?;
    let mut approach = Approach::new(&shared, &id);
    let claim = loop {
        let outcome = approach.ask().await?;
        match approach.step(outcome).await? {
            Step::Granted(claim) => break claim,
            Step::Settled(settled) => return Ok(settled.shared_as::<T>()),
            Step::Again => {}
        }
    };
    if let Some(dead) = claim.took_over() {
        telemetry::took_over(&id, dead.get(), claim.attempt());
    }
    let (token, attempt) = (claim.token(), claim.attempt());
    let lease = Lease::keep(&shared, &runtime, id.clone(), token);
    let context = Context::new(id.clone(), attempt, Some(lease.lost()));
    // The closure is called inside, so that its panic is caught as well; and the finished work is dropped
    // before anybody learns of its result.
    let worked = catch(async move { work(context).await }).await;
    match worked {
        Ok(Ok(value)) => {
            let limit = shared.max_result_bytes;
            let (result, failed) = match prepare(&value, Verdict::Performed, limit) {
                Prepared::Kept(result) => (result, None),
                Prepared::TooLarge { size } => (RecordedResult::too_large(size), None),
                Prepared::Failed(error) => (RecordedResult::not_encodable(), Some(error)),
            };
            record(&shared, &id, claim, &result).await?;
            drop(lease);
            match failed {
                // The first time with the reason; a replay can only say that there was one.
                Some(source) => Err(encoding_failed(id, source, Effect::Done)),
                None => Ok(Settled::executed(Some(Arc::new(value)), result, attempt)),
            }
        }
        Ok(Err(reason)) => {
            release(&shared, &id, claim).await;
            drop(lease);
            Err(Error::NotDone { id, reason })
        }
        Err(panic) => {
            lease.stop(shared.lease).await;
            let_go(&shared, &id, token).await;
            resume_unwind(panic)
        }
    }
}

pub(super) fn encoding_failed(id: RequestId, source: CodecError, effect: Effect) -> Error {
    Error::Codec { id, source, effect }
}

/// Records the result. The work is done, so this does not give up easily: after an error it looks up what
/// became of the attempt before it tries again.
async fn record<S: Store>(
    shared: &Shared<S>,
    id: &RequestId,
    claim: Claim,
    result: &RecordedResult,
) -> Result<(), Error> {
    let (token, attempt) = (claim.token(), claim.attempt());
    let until = after(shared.lease.max(RECORD_PATIENCE));
    let mut claim = claim;
    loop {
        let completed = shared.store.complete(claim, result.clone(), shared.retention);
        let error = match completed.await {
            Ok(()) => return Ok(()),
            Err(StoreError::Outdated { .. }) => return Err(lease_lost(id)),
            Err(error) => error,
        };
        match shared.store.load(id).await {
            Ok(Some(record)) if record.token == token => match record.state {
                State::Completed { .. } => return Ok(()),
                State::InProgress { .. } => {}
            },
            Ok(_) => return Err(lease_lost(id)),
            Err(_) => {}
        }
        if Instant::now() >= until {
            telemetry::unrecorded(id, &error);
            return Err(Error::Unrecorded {
                id: id.clone(),
                source: Arc::new(error),
            });
        }
        sleep(jittered(RETRY_PAUSE)).await;
        claim = Claim::new(id.clone(), token, attempt, None);
    }
}

fn lease_lost(id: &RequestId) -> Error {
    Error::LeaseLost { id: id.clone() }
}

/// Gives the claim back. If that cannot be done, it is in doubt when the lease ends.
async fn release<S: Store>(shared: &Shared<S>, id: &RequestId, claim: Claim) {
    let (token, attempt) = (claim.token(), claim.attempt());
    let mut claim = claim;
    for tried in 1.. {
        match shared.store.release(claim).await {
            // Outdated: it was given back already, or taken over. Either way it isn't ours any more.
            Ok(()) | Err(StoreError::Outdated { .. }) => return,
            Err(error) if tried >= RELEASE_TRIES => return telemetry::not_released(id, &error),
            Err(_) => sleep(jittered(RETRY_PAUSE)).await,
        }
        claim = Claim::new(id.clone(), token, attempt, None);
    }
}

/// Lets the lease end at once, so that the next call needs not wait for it.
async fn let_go<S: Store>(shared: &Shared<S>, id: &RequestId, token: FencingToken) {
    for tried in 1.. {
        match shared.store.renew(id, token, Duration::ZERO).await {
            Ok(()) | Err(StoreError::Outdated { .. }) => return,
            Err(error) if tried >= RELEASE_TRIES => return telemetry::not_released(id, &error),
            Err(_) => sleep(jittered(RETRY_PAUSE)).await,
        }
    }
}
