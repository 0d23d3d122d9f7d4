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

use tokio::runtime::Handle;

use super::Shared;
use super::approach::{Approach, GIVING_BACK, Step};
use super::codec::{Codec, prepare};
use super::conclude::{give_up, let_go, record, see_to};
use super::context::Context;
use super::error::{CodecError, Effect, Error, ErrorKind};
use super::lease::Lease;
use super::progress::Progress;
use super::settled::Settled;
use super::timer::{self, within};
use super::unfinished::Unfinished;
use super::unwind::catch;
use crate::flight::Panicked;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Verdict};
use crate::store::Store;
use crate::telemetry;

/// The work of a flight.
pub(super) async fn execute<S, C, T, F, W>(
    shared: Arc<Shared<S>>,
    codec: Arc<C>,
    id: RequestIdentity,
    progress: Arc<Progress>,
    work: F,
) -> Result<Settled, Error>
where
    S: Store,
    C: Codec<T>,
    T: Send + Sync + 'static,
    F: FnOnce(Context) -> W + Send + 'static,
    W: Future<Output = Result<T, Unfinished>> + Send + 'static,
{
    let runtime = timer::runtime().map_err(|source| ErrorKind::Flight(source).of(&id))?;
    let mut approach = Approach::new(&shared, &id, &progress, &runtime);
    let (mut stake, claim, since) = loop {
        match approach.claim().await? {
            Step::Granted(granted) => break granted,
            Step::Settled(settled) => return Ok(settled.shared_as(&*codec)),
            Step::Again => {}
        }
    };
    if let Some(dead) = claim.took_over() {
        telemetry::took_over(&id, dead.get(), claim.attempt());
    }
    let (token, attempt) = (claim.token(), claim.attempt());
    let mut lease = Lease::keep(&shared, &runtime, id.clone(), token, since);
    let context = Context::new(id.clone(), attempt, Some(lease.view()));
    progress.work();
    // From here to the first poll of the work, nothing is waited for.
    stake.is_used();
    // The closure is called inside, so that its panic is caught as well; and the finished work is dropped
    // before anybody learns of its result.
    let worked = lease.during(catch(async move { work(context).await })).await;
    match worked {
        Ok(Ok(value)) => {
            let (result, failed) = prepare(&*codec, &value, Verdict::Performed, shared.sizes).of_done();
            lease.concluding();
            lease.during(record(&shared, &id, claim, &result)).await?;
            drop(lease);
            match failed {
                // The first time with the reason; a replay can only say that there was one.
                Some(source) => Err(encoding_failed(&id, source, Effect::Done)),
                None => Ok(Settled::executed(Some(Arc::new(value)), result, attempt)),
            }
        }
        Ok(Err(Unfinished::NotDone(reason))) => {
            let (ending, of) = (Arc::clone(&shared), id.clone());
            let given_up = see_to(&shared, &runtime, &id, async move {
                lease.stop().await;
                give_up(&ending, &of, claim).await
            });
            let _ = within(GIVING_BACK, given_up).await;
            Err(ErrorKind::NotDone(reason).of(&id))
        }
        Ok(Err(Unfinished::Unknown(reason))) => {
            leave_in_doubt(&shared, &runtime, &id, token, lease).await;
            Err(ErrorKind::Unknown(reason).of(&id))
        }
        Err(panic) => {
            leave_in_doubt(&shared, &runtime, &id, token, lease).await;
            let panic = Panicked::from_payload(panic);
            let message = panic.message().to_owned();
            ErrorKind::Panicked(panic).of(&id).tell();
            resume_unwind(Box::new(message))
        }
    }
}

/// Leaves a request whose work has not told what it did: in doubt, once that has settled.
async fn leave_in_doubt<S: Store>(
    shared: &Arc<Shared<S>>,
    runtime: &Handle,
    id: &RequestIdentity,
    token: FencingToken,
    lease: Lease<S>,
) {
    let (ending, of) = (Arc::clone(shared), id.clone());
    let let_go = see_to(shared, runtime, id, async move {
        lease.stop().await;
        let_go(&ending, &of, token, ending.settle).await
    });
    let _ = within(GIVING_BACK, let_go).await;
}

pub(super) fn encoding_failed(id: &RequestIdentity, source: CodecError, effect: Effect) -> Error {
    ErrorKind::Codec(source).of(id).with_effect(effect)
}
