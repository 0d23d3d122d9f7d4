//! A store of your own. It keeps records where it likes, and leaves the decision about a request to `decide`, so that
//! it decides as every store does. The suites of `oneflight-conformance` then say whether it keeps its promises.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oneflight::record::{FencingToken, Record, RecordedResult, State, Timestamp};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Clock, Decision, Store, StoreError, SystemClock, decide};
use oneflight::{Idempotency, RequestIdentity, Scope};

/// Records in a map, for one process.
#[derive(Default)]
struct Notebook {
    clock: SystemClock,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    records: HashMap<RequestIdentity, Record>,
    last_token: u64,
}

impl Pages {
    /// Returns a record as it is at this instant.
    fn look(&self, id: &RequestIdentity, now: Timestamp) -> Option<Record> {
        let mut record = self.records.get(id)?.clone();
        record.observed = now;
        Some(record)
    }

    /// Returns the record of a claim, for the holder that still has it.
    fn held(&mut self, id: &RequestIdentity, token: FencingToken) -> Result<&mut Record, StoreError> {
        let record = self.records.get_mut(id);
        record
            .filter(|it| it.token == token && it.result().is_none())
            .ok_or(StoreError::Outdated { token })
    }
}

impl Notebook {
    /// What is done under the lock is one atomic step.
    fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Notebook {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let (mut pages, now) = (self.open(), self.clock.now());
        let (attempt, took_over) = match decide(pages.look(&request.id, now), &request) {
            Decision::Grant { attempt, took_over } => (attempt, took_over),
            Decision::Unchanged(outcome) => return Ok(outcome),
        };
        pages.last_token += 1; // Larger than all before it, whatever was purged.
        let token = FencingToken::new(pages.last_token);
        let state = State::InProgress {
            lease_expires: now.after(request.lease),
        };
        let record = Record::new(request.id.fingerprint(), token, request.holder, attempt, state, now);
        pages.records.insert(request.id.clone(), record);
        Ok(ClaimOutcome::Granted(Claim::new(request.id, token, attempt, took_over)))
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let (mut pages, until) = (self.open(), self.clock.now().after(lease));
        if let State::InProgress { lease_expires } = &mut pages.held(id, token)?.state {
            *lease_expires = until.max(*lease_expires); // It never shortens a lease.
        }
        Ok(())
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let lease_expires = self.clock.now().after(left);
        self.open().held(id, token)?.state = State::InProgress { lease_expires };
        Ok(())
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let (mut pages, completed) = (self.open(), self.clock.now());
        let done = pages.look(claim.id(), completed);
        if done.is_some_and(|it| it.token == claim.token() && it.result().is_some()) {
            return Ok(()); // Completed before, by an attempt whose answer was lost.
        }
        let expires = completed.after(retention);
        pages.held(claim.id(), claim.token())?.state = State::Completed {
            result,
            completed,
            expires,
        };
        Ok(())
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let mut pages = self.open();
        pages.held(claim.id(), claim.token())?;
        pages.records.remove(claim.id());
        Ok(())
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.open().look(id, self.clock.now());
        Ok(record.filter(|it| !it.is_past_retention()))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut pages, now) = (self.open(), self.clock.now());
        let is_over = |id: &&RequestIdentity| pages.look(id, now).is_some_and(|it| it.is_past_retention());
        let over: Vec<_> = pages.records.keys().filter(is_over).take(limit).cloned().collect();
        over.iter().for_each(|id| drop(pages.records.remove(id)));
        Ok(over.len())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    oneflight_conformance::run(async || Notebook::default()).await?;

    let idem = Idempotency::builder(Notebook::default()).build();
    let id = RequestIdentity::new(Scope::new("shop").route("POST /orders"), "c0ffee")?;
    for _ in 0..2 {
        let reply = idem.run(id.clone(), |_| async { "order 1".to_owned() }).await?;
        println!("{}: {}", reply.origin(), *reply);
    }
    Ok(())
}
