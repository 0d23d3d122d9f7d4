//! One execution outside of a transaction: claim, work, complete. All of it is one flight's work.
//!
//! ```text
//! claimed ──work answers──▶ complete ──▶ recorded
//!    │  │                      └─ answer lost: look up, then again, until the lease would have ended
//!    │  └──work did nothing──▶ release ──▶ new again, unless an earlier attempt is in doubt
//!    ├──work does not know───▶ lease ends when it has settled ──▶ in doubt
//!    ├─────work panics───────▶ the same, and the panic goes on to the callers
//!    └─────process dies──────▶ lease runs out ──▶ in doubt
//! ```

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use super::Shared;
use super::approach::{Approach, Step};
use super::codec::prepare;
use super::conclude::{give_up, let_go, record};
use super::context::Context;
use super::error::{CodecError, Effect, Error};
use super::lease::Lease;
use super::settled::Settled;
use super::unfinished::Unfinished;
use super::unwind::catch;
use crate::flight::Panicked;
use crate::group;
use crate::identity::RequestId;
use crate::record::Verdict;
use crate::store::Store;
use crate::telemetry;

/// The work of a flight.
pub(super) async fn execute<S, T, F, W>(shared: Arc<Shared<S>>, id: RequestId, work: F) -> Result<Settled, Error>
where
    S: Store,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    F: FnOnce(Context) -> W + Send + 'static,
    W: Future<Output = Result<T, Unfinished>> + Send + 'static,
{
    let runtime = Handle::try_current().map_err(|_| Error::Flight {
        id: id.clone(),
        source: group::Error::NoRuntime,
    })?;
    let mut approach = Approach::new(&shared, &id);
    let (claim, since) = loop {
        match approach.claim().await? {
            Step::Granted(granted) => break granted,
            Step::Settled(settled) => return Ok(settled.shared_as::<T>()),
            Step::Again => {}
        }
    };
    if let Some(dead) = claim.took_over() {
        telemetry::took_over(&id, dead.get(), claim.attempt());
    }
    let (token, attempt) = (claim.token(), claim.attempt());
    let lease = Lease::keep(&shared, &runtime, id.clone(), token, since);
    let context = Context::new(id.clone(), attempt, Some(lease.lost()));
    // The closure is called inside, so that its panic is caught as well; and the finished work is dropped
    // before anybody learns of its result.
    let worked = catch(async move { work(context).await }).await;
    match worked {
        Ok(Ok(value)) => {
            let (result, failed) = prepare(&value, Verdict::Performed, shared.sizes).of_done();
            lease.concluding();
            record(&shared, &id, claim, &result).await?;
            drop(lease);
            match failed {
                // The first time with the reason; a replay can only say that there was one.
                Some(source) => Err(encoding_failed(id, source, Effect::Done)),
                None => Ok(Settled::executed(Some(Arc::new(value)), result, attempt)),
            }
        }
        Ok(Err(Unfinished::NotDone(reason))) => {
            lease.stop(shared.lease).await;
            give_up(&shared, &id, claim).await;
            Err(Error::NotDone { id, reason })
        }
        Ok(Err(Unfinished::Unknown(reason))) => {
            lease.stop(shared.lease).await;
            let_go(&shared, &id, token, shared.settle).await;
            Err(Error::Unknown { id, reason })
        }
        Err(panic) => {
            lease.stop(shared.lease).await;
            let_go(&shared, &id, token, shared.settle).await;
            let panic = Panicked::from_payload(panic);
            let message = panic.message().to_owned();
            let effect = Effect::Unknown;
            Error::Panicked { id, panic, effect }.tell();
            resume_unwind(Box::new(message))
        }
    }
}

pub(super) fn encoding_failed(id: RequestId, source: CodecError, effect: Effect) -> Error {
    Error::Codec { id, source, effect }
}
