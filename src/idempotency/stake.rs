//! A claim that is asked for or held, and under which no work has begun.
//!
//! ```text
//! asked ──granted──────▶ held ──the work begins──▶ used: it ends as the work says
//!   │ ▲──not granted───▶ nothing
//!   │ └──again, as the same holder──┐
//!   └────answer lost──▶ lost ───────┘
//!
//! asked, lost or held, and dropped ──▶ given back, by a task
//! ```
//!
//! A flight can be dropped wherever it waits, and a question to the store goes on without it: the claim may be granted
//! when nobody waits for it any more. So a question is not dropped with its flight. A task waits for its answer, for a
//! while, and looks for a claim that may have been granted without one; what is found is given back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::asking::may_have_landed;
use super::conclude::{disown, give_up, see_to};
use super::timer::{until, within};
use crate::identity::RequestIdentity;
use crate::record::HolderId;
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError, Takeover};

type Question = Pin<Box<dyn Future<Output = Result<ClaimOutcome, StoreError>> + Send>>;

/// See the module's documentation.
pub(super) struct Stake<S: Store> {
    shared: Arc<Shared<S>>,
    id: RequestIdentity,
    holder: HolderId,
    /// Where it is given back, if it is dropped where no runtime is.
    runtime: Handle,
    /// What is under way to the store. The lock makes it `Sync`, and is never taken.
    question: Mutex<Option<Question>>,
    /// An answer was lost: the claim may be granted, or will be.
    lost: bool,
    /// It is granted, and fewer replicas have it than are wanted.
    too_few: bool,
    held: Option<Claim>,
}

impl<S: Store> Stake<S> {
    /// A stake of a new holder's, which has asked for nothing.
    pub(super) fn new(shared: &Arc<Shared<S>>, id: &RequestIdentity, runtime: &Handle) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: id.clone(),
            holder: HolderId::random(),
            runtime: runtime.clone(),
            question: Mutex::new(None),
            lost: false,
            too_few: false,
            held: None,
        }
    }

    pub(super) fn holder(&self) -> HolderId {
        self.holder
    }

    /// Asks for the claim, of this identity with the fingerprint as it is known, until then; no answer is `None`.
    pub(super) async fn ask(
        &mut self,
        id: &RequestIdentity,
        takeover: Takeover,
        patience: Duration,
        deadline: Instant,
    ) -> Option<Result<ClaimOutcome, StoreError>> {
        let (shared, id, holder) = (Arc::clone(&self.shared), id.clone(), self.holder);
        let question = self.question.get_mut().insert(Box::pin(async move {
            let request = ClaimRequest::new(&id, shared.lease)
                .holder(holder)
                .takeover(takeover)
                .patience(patience);
            shared.claim(request).await
        }));
        let answer = until(deadline, question).await?;
        *self.question.get_mut() = None;
        match &answer {
            Ok(ClaimOutcome::Granted(claim)) => {
                self.lost = false;
                self.held = Some(claim.again());
            }
            Ok(_) => {}
            Err(StoreError::TooFewReplicas { .. }) => self.too_few = true,
            Err(error) => self.lost |= may_have_landed(error),
        }
        Some(answer)
    }

    /// The claim is not to be given back any more: the work begins, or what it was for is done.
    pub(super) fn is_used(&mut self) {
        self.held = None;
    }

    /// Whether it is open what was granted, or will be, or it is granted: that has to be given back before it can be said that
    /// nothing is left.
    pub(super) fn is_open(&mut self) -> bool {
        self.question.get_mut().is_some() || self.lost || self.held.is_some()
    }

    /// Gives back what may have been granted, and answers whether nothing is left of it. It goes on if nobody waits for it.
    pub(super) fn give_back(&mut self) -> Option<JoinHandle<bool>> {
        let (question, held) = (self.question.get_mut().take(), self.held.take());
        let lost = std::mem::take(&mut self.lost) | std::mem::take(&mut self.too_few);
        if question.is_none() && held.is_none() && !lost {
            return None;
        }
        let (shared, id, holder) = (Arc::clone(&self.shared), self.id.clone(), self.holder);
        let runtime = Handle::try_current().unwrap_or_else(|_| self.runtime.clone());
        let given_back = async move {
            let is_asked = question.is_some();
            let answer = match question {
                Some(question) => within(shared.answer_patience(), question).await,
                None => held.map(|claim| Ok(ClaimOutcome::Granted(claim))),
            };
            match answer {
                Some(Ok(ClaimOutcome::Granted(claim))) => give_up(&shared, &id, claim).await,
                Some(Ok(_)) if !lost => true,
                // What was asked last may still be on its way.
                None if is_asked => {
                    disown(&shared, &id, holder).await;
                    false
                }
                Some(_) | None => disown(&shared, &id, holder).await,
            }
        };
        Some(see_to(&self.shared, &runtime, &self.id, given_back))
    }
}

/// Dropped, it is given back.
impl<S: Store> Drop for Stake<S> {
    fn drop(&mut self) {
        self.give_back();
    }
}
