//! The steps of mutations in memory.
//!
//! They stand in a map of their own, beside the records. Whatever changes both holds the record's entry meanwhile, so
//! the order of locks is record, then steps.

use std::time::Duration;

use dashmap::Entry;

use super::{Kept, MemoryStore, Records};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult, State, Timestamp};
use crate::store::claim::{Claim, ClaimOutcome, ClaimRequest, Decision};
use crate::store::error::StoreError;
use crate::store::steps::{
    Standing, StartedBy, StepId, StepRecord, StepStore, StepsClaim, UnfinishedQuery, UnfinishedSteps, WorkflowRecord,
    WorkflowStart, decide_steps,
};

impl Records {
    fn begin_steps(&self, request: &ClaimRequest, start: WorkflowStart, now: Timestamp) -> ClaimOutcome<StepsClaim> {
        let id = request.id.known_as(None);
        let place = self.by_id.entry(id.clone());
        let known = match &place {
            Entry::Occupied(known) => Some(known.get().observed_at(now)),
            Entry::Vacant(_) => None,
        };
        let replaced = known.as_ref().and_then(Record::place_by_expiry);
        let beside = self.steps.get(&id).map(|beside| beside.clone());
        let (decision, goes_on) = decide_steps(known, beside.as_ref(), request, &start);
        match (decision, beside) {
            (Decision::Unchanged(ClaimOutcome::Granted(claim)), Some(workflow)) => {
                ClaimOutcome::Granted(StepsClaim { claim, workflow })
            }
            (Decision::Unchanged(ClaimOutcome::Granted(claim)), None) => {
                // This very holder has claimed without steps.
                let denied = super::Denied::InProgress {
                    lease_remaining: request.lease,
                    attempt: claim.attempt(),
                };
                ClaimOutcome::Denied(denied)
            }
            (Decision::Unchanged(ClaimOutcome::Denied(denied)), _) => ClaimOutcome::Denied(denied),
            (Decision::Grant { attempt, took_over }, beside) => {
                let token = self.next_token();
                let by = start.by;
                let mut workflow = match beside {
                    Some(beside) if goes_on => WorkflowRecord {
                        version: start.version,
                        ..beside
                    },
                    _ => WorkflowRecord {
                        token,
                        name: start.name,
                        version: start.version,
                        input: start.input,
                        tries: 0,
                        held: false,
                        steps: start.steps,
                    },
                };
                workflow.token = token;
                workflow.tries += u32::from(by == StartedBy::Completer);
                let before_it = match &place {
                    Entry::Occupied(known) => Some(known.get()),
                    Entry::Vacant(_) => None,
                };
                let kept = Kept::granted(before_it, request, token, attempt, now);
                let place = place.insert(kept);
                self.steps.insert(id, workflow.clone());
                drop(place);
                if let Some(place) = replaced {
                    self.expiries(place.1).lock().remove(&place);
                }
                let claim = Claim::new(request.id.clone(), token, attempt, took_over);
                ClaimOutcome::Granted(StepsClaim { claim, workflow })
            }
        }
    }

    /// Has what stands beside a record go on to stand beside it under another token, held. The record's entry is held
    /// meanwhile.
    pub(super) fn take_along(&self, id: &RequestIdentity, before: FencingToken, token: FencingToken) {
        if let Some(mut beside) = self.steps.get_mut(&id.known_as(None))
            && beside.token == before
        {
            (beside.token, beside.held) = (token, true);
        }
    }

    /// Changes what stands beside a record, if this token holds the claim, and as far as the change is one.
    fn beside(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        change: impl FnOnce(&mut WorkflowRecord, &Record) -> bool,
    ) -> Result<(), StoreError> {
        let outdated = Err(StoreError::Outdated { token });
        let Some(record) = self.by_id.get(id) else {
            return outdated;
        };
        if !record.is_claimed_by(token) {
            return outdated;
        }
        match self.steps.get_mut(&id.known_as(None)) {
            Some(mut workflow) if workflow.token == token => match change(&mut workflow, &record) {
                true => Ok(()),
                false => outdated,
            },
            _ => outdated,
        }
    }

    /// Returns what goes on by itself, and so is not in doubt.
    pub(super) fn goes_on(&self, id: &RequestIdentity, record: &Record) -> bool {
        let beside = self.steps.get(&id.known_as(None));
        beside.is_some_and(|beside| beside.belongs_to(record) && !beside.held)
    }
}

impl StepStore for MemoryStore {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        let now = self.0.clock.now();
        Ok(self.0.begin_steps(&request, start, now))
    }

    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        self.0.beside(id, token, |workflow, _| {
            match workflow.steps.iter_mut().find(|there| there.id == step.id) {
                Some(there) if there.result.is_none() => there.result = step.result,
                Some(_) => {}
                None => workflow.steps.push(step),
            }
            true
        })
    }

    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        self.0.beside(id, token, |workflow, record| {
            if !workflow.held || !is_over(record, now) {
                return false;
            }
            match answer {
                Some(answer) => {
                    let there = workflow.steps.iter_mut().find(|there| there.id == *step);
                    if let Some(there) = there {
                        there.result = Some(answer);
                    }
                }
                None => {
                    let is_it = |there: &StepRecord| there.id == *step && there.result.is_none();
                    workflow.steps.retain(|there| !is_it(there));
                }
            }
            true
        })
    }

    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        let now = self.0.clock.now();
        let Some(record) = self.0.by_id.get(id).map(|record| record.observed_at(now)) else {
            return Ok(None);
        };
        let known = self.0.steps.get(&id.known_as(None)).map(|known| known.clone());
        let known = known.filter(|known| known.belongs_to(&record) && !record.is_past_retention());
        Ok(known.map(|known| WorkflowRecord {
            held: known.held && record.result().is_none(),
            ..known
        }))
    }

    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        let now = self.0.clock.now();
        // One map at a time: the order of locks is the other one. Inputs and steps are not looked at, and may be large.
        let asked_for = self.0.steps.iter().filter(|known| query.asks_for(known, Duration::MAX));
        let known: Vec<_> = asked_for
            .map(|known| {
                let known_as = WorkflowRecord {
                    name: known.name.clone(),
                    version: known.version.clone(),
                    input: RecordedResult::not_encodable(),
                    steps: Vec::new(),
                    ..*known
                };
                (known.key().clone(), known_as)
            })
            .collect();
        let mut found: Vec<_> = known
            .into_iter()
            .filter_map(|(id, known)| {
                let record = self.0.by_id.get(&id)?.observed_at(now);
                let State::InProgress { lease_expires } = record.state else {
                    return None;
                };
                let since = now.since(lease_expires);
                let is_over = lease_expires <= now && known.belongs_to(&record);
                let id = id.known_as(record.fingerprint);
                (is_over && query.asks_for(&known, since)).then(|| UnfinishedSteps::new(id, &known, since))
            })
            .collect();
        found.sort_by_key(|found| std::cmp::Reverse(found.since));
        found.truncate(query.limit);
        Ok(found)
    }

    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        self.0.beside(id, token, |workflow, record| {
            match standing {
                Standing::GivenUp if workflow.held || !is_over(record, now) => return false,
                Standing::HandedBack => workflow.tries = workflow.tries.saturating_sub(1),
                Standing::Held | Standing::GivenUp => workflow.held = true,
                Standing::Resumed => (workflow.held, workflow.tries) = (false, 0),
            }
            true
        })
    }
}

/// Whether the lease of a claim is over.
fn is_over(record: &Record, now: Timestamp) -> bool {
    matches!(record.state, State::InProgress { lease_expires } if lease_expires <= now)
}
