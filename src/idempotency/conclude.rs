//! How a claim outside of a transaction ends: recorded, given back, or left in doubt.
//!
//! ```text
//!           ┌──record───▶ completed     not given up easily: the work is done
//! claimed ──┼──release──▶ new again     nothing was done, and no earlier attempt is in doubt
//!           └──let go───▶ in doubt      the lease ends at once, so that nobody waits for it
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Shared;
use super::approach::{after, jittered};
use super::error::Error;
use crate::identity::RequestId;
use crate::record::{FencingToken, HolderId, RecordedResult, State};
use crate::store::{Claim, Store, StoreError};
use crate::telemetry;

/// How long, at least, a result is tried to be recorded when the store fails.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// How often a claim is tried to be given back, or to be let go.
const RELEASE_TRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Records the result. The work is done, so this does not give up easily: after an error it looks up what
/// became of the attempt before it tries again.
pub(super) async fn record<S: Store>(
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
        // It is recorded, but not where it is wanted; looking would not tell.
        let too_few = matches!(error, StoreError::TooFewReplicas { .. });
        match shared.store.load(id).await {
            Ok(Some(record)) if record.token == token => match record.state {
                State::Completed { .. } if too_few => {}
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

/// Ends a claim under which nothing was done. That says nothing of the attempts before it, so only a first attempt
/// makes the identity new; a later one leaves the doubt as it was.
pub(super) async fn give_up<S: Store>(shared: &Shared<S>, id: &RequestId, claim: Claim) {
    match claim.attempt() {
        1 => release(shared, id, claim).await,
        _ => let_go(shared, id, claim.token()).await,
    }
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
pub(super) async fn let_go<S: Store>(shared: &Shared<S>, id: &RequestId, token: FencingToken) {
    for tried in 1.. {
        match shared.store.renew(id, token, Duration::ZERO).await {
            Ok(()) | Err(StoreError::Outdated { .. }) => return,
            Err(error) if tried >= RELEASE_TRIES => return telemetry::not_released(id, &error),
            Err(_) => sleep(jittered(RETRY_PAUSE)).await,
        }
    }
}

/// Looks for a claim that may have been taken without an answer, and ends it: its work has not begun and never will. Says
/// whether it could look.
pub(super) async fn disown<S: Store>(shared: &Shared<S>, id: &RequestId, holder: HolderId) -> bool {
    match shared.store.load(id).await {
        Ok(Some(record)) if record.holder == holder && record.result().is_none() => {
            give_up(shared, id, Claim::new(id.clone(), record.token, record.attempt, None)).await;
            true
        }
        Ok(_) => true,
        Err(error) => {
            telemetry::not_released(id, &error);
            false
        }
    }
}
