//! One execution outside of a transaction: claim, work, complete. All of it is the work of one flight.
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
use std::pin::pin;
use std::sync::Arc;

use super::claim::{Acquire, Acquired, Case};
use super::codec::{Codec, prepare};
use super::context::Context;
use super::error::{Effect, Error, ErrorKind};
use super::progress::Progress;
use super::settled::Settled;
use super::shared::Shared;
use super::unfinished::Unfinished;
use crate::flight::Panicked;
use crate::identity::RequestIdentity;
use crate::record::Verdict;
use crate::store::Store;
use crate::unwind::catch;

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
    let case = Case::open(&shared, &id)?;
    let mut held = match Acquire::new(&case, &progress).claim().await? {
        Acquired::Granted(granted) => granted.begin(),
        Acquired::Settled(settled) => return Ok(settled.shared_as(&*codec)),
    };
    let attempt = held.attempt();
    let context = Context::new(id.clone(), attempt, Some(held.view()));
    progress.work();
    // The closure is called inside, so that its panic is caught as well. The finished work is dropped before any caller
    // learns of its result.
    let worked = held.during(pin!(catch(async move { work(context).await }))).await;
    match worked {
        Ok(Ok(value)) => {
            let (result, failed) = prepare(&*codec, &value, Verdict::Performed, shared.sizes).of_done();
            held.complete(&result).await?;
            match failed {
                // The first time with the reason; a replay can only say that there was one.
                Some(source) => Err(Error::codec(&id, source, Effect::Done)),
                None => Ok(Settled::executed(Some(Arc::new(value)), result, attempt)),
            }
        }
        Ok(Err(Unfinished::NotDone(reason))) => {
            held.release().await;
            Err(ErrorKind::NotDone(reason).of(&id))
        }
        Ok(Err(Unfinished::Unknown(reason))) => {
            held.leave_in_doubt().await;
            Err(ErrorKind::Unknown(reason).of(&id).settling_in(shared.settle))
        }
        Err(panic) => {
            held.leave_in_doubt().await;
            let panic = Panicked::from_payload(panic);
            let message = panic.message().to_owned();
            ErrorKind::Panicked(panic).of(&id).tell();
            resume_unwind(Box::new(message))
        }
    }
}
