//! A claim that is asked for.
//!
//! ```text
//! asked ──granted──────▶ a `Granted`, and nothing is asked any more
//!   │ ▲──not granted───▶ nothing
//!   │ └──again, as the same holder──┐
//!   └────answer lost──▶ lost ───────┘
//!
//! asked or lost, and dropped ──▶ given back, by a task
//! ```
//!
//! A flight can be dropped wherever it waits, and a question to the store goes on without it: the claim may be granted
//! when no caller waits for it any more. So a question is not dropped with its flight. A task waits for its answer for
//! a while, and looks for a claim that may have been granted without an answer. What it finds is given back.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::case::Case;
use super::end::{Ending, disown, give_up};
use super::granted::Granted;
use crate::backoff::jittered;
use crate::idempotency::answer::{may_have_landed, silent};
use crate::idempotency::progress::Progress;
use crate::identity::RequestIdentity;
use crate::record::HolderId;
use crate::store::{ClaimOutcome, ClaimRequest, Store, StoreError, Takeover};
use crate::timer::{after, pause, until, within};

/// How often a claim whose answer was lost is asked for again.
const CLAIM_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

type Question = Pin<Box<dyn Future<Output = Result<ClaimOutcome, StoreError>> + Send>>;

/// See the module's documentation.
pub(super) struct Asked<S: Store> {
    case: Case<S>,
    holder: HolderId,
    /// What is under way to the store. The lock makes it `Sync`, and is never taken.
    question: Mutex<Option<Question>>,
    /// An answer was lost: the claim may be granted, or will be.
    lost: bool,
    /// The claim is granted, and fewer replicas have it than are wanted.
    too_few: bool,
}

impl<S: Store> Asked<S> {
    /// A new holder, which has asked for nothing.
    pub(super) fn as_new_holder(case: &Case<S>) -> Self {
        Self {
            case: case.clone(),
            holder: HolderId::random(),
            question: Mutex::new(None),
            lost: false,
            too_few: false,
        }
    }

    pub(super) fn holder(&self) -> HolderId {
        self.holder
    }

    /// Asks for the claim, for this identity with the fingerprint as it is known. If an answer is lost, it asks again
    /// as the same holder, so a claim that was granted without an answer is found, and not left to its lease. If no
    /// answer comes, the error is the one after which the claim may have been granted, if there was such an error.
    pub(super) async fn ask(
        &mut self,
        id: &RequestIdentity,
        takeover: Takeover,
        progress: &Progress,
    ) -> Result<ClaimOutcome<Granted<S>>, StoreError> {
        let asked = Instant::now();
        let most = self.case.shared.store_patience;
        let deadline = after(progress.answer_patience().min(most));
        let mut lost = None;
        for tries in 1.. {
            // A store that keeps its own time says more than that it is silent.
            let patience = progress.patience().min(most - most / 8);
            match self.ask_once(id, takeover, patience, deadline).await {
                Some(Ok(outcome)) => return Ok(outcome.map(|claim| Granted::new(&self.case, claim, asked))),
                Some(Err(error)) if may_have_landed(&error) && tries < CLAIM_TRIES && Instant::now() < deadline => {
                    lost.get_or_insert(error);
                }
                Some(Err(error)) => return Err(lost.unwrap_or(error)),
                None => break,
            }
            pause(jittered(FIRST_PAUSE * (tries + 1))).await;
        }
        Err(lost.unwrap_or_else(|| silent(asked.elapsed())))
    }

    /// Asks until then. `None` means that there was no answer.
    async fn ask_once(
        &mut self,
        id: &RequestIdentity,
        takeover: Takeover,
        patience: Duration,
        deadline: Instant,
    ) -> Option<Result<ClaimOutcome, StoreError>> {
        let (case, id, holder) = (self.case.clone(), id.clone(), self.holder);
        let question = self.question.get_mut().insert(Box::pin(async move {
            let request = ClaimRequest::by(holder, &id, case.shared.lease)
                .takeover(takeover)
                .patience(patience);
            case.shared.claim(request).await
        }));
        let answer = until(deadline, question).await?;
        *self.question.get_mut() = None;
        match &answer {
            // What was lost before is this very claim, which is not to be looked for any more.
            Ok(ClaimOutcome::Granted(_)) => (self.lost, self.too_few) = (false, false),
            Ok(ClaimOutcome::Denied(_)) => {}
            Err(StoreError::TooFewReplicas { .. }) => self.too_few = true,
            Err(error) => self.lost |= may_have_landed(error),
        }
        Some(answer)
    }

    /// Gives back what may have been granted, if anything may, and becomes a new holder, so that what is granted late is
    /// not found as its own. Returns whether nothing is left of it so far.
    pub(super) async fn give_back(&mut self) -> bool {
        let is_open = self.question.get_mut().is_some() || self.lost;
        if !is_open && !self.too_few {
            return true;
        }
        let fresh = Self::as_new_holder(&self.case);
        let mut before = std::mem::replace(self, fresh);
        match before.end() {
            Some(ending) => ending.waited_for().await || !is_open,
            None => true,
        }
    }

    fn end(&mut self) -> Option<Ending> {
        let question = self.question.get_mut().take();
        let lost = std::mem::take(&mut self.lost) | std::mem::take(&mut self.too_few);
        if question.is_none() && !lost {
            return None;
        }
        let (case, holder) = (self.case.clone(), self.holder);
        Some(Ending::of(&self.case, async move {
            let (shared, id) = (&case.shared, &case.id);
            let Some(question) = question else {
                return disown(shared, id, holder).await;
            };
            match within(shared.answer_patience(), question).await {
                Some(Ok(ClaimOutcome::Granted(claim))) => give_up(shared, &claim).await,
                Some(Ok(ClaimOutcome::Denied(_))) if !lost => true,
                Some(_) => disown(shared, id, holder).await,
                None => {
                    disown(shared, id, holder).await;
                    // The last question may still be on its way.
                    false
                }
            }
        }))
    }
}

impl<S: Store> Drop for Asked<S> {
    fn drop(&mut self) {
        self.end();
    }
}
