//! A store in memory: for tests, and for services that are one process.
//!
//! One lock around two maps: the records by identity, and the completed ones by when they expire, so that
//! purging looks at nothing else. Nothing waits while the lock is held.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::watch::Watchers;
use super::{
    Claim, ClaimOutcome, ClaimRequest, Clock, Decision, InDoubt, Store, StoreError, SystemClock, Watch, decide,
};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult, State, Timestamp};

/// How many keys may be waited for by notification at a time.
const MOST_WATCHED: usize = 65_536;

/// Keeps records in memory. Clones share them; they die with the process.
///
/// Completed records stay until they are [purged](Store::purge).
///
/// ```
/// use std::time::Duration;
/// use oneflight::store::{ManualClock, MemoryStore};
///
/// // With a clock of the test's own, leases and retention end without sleeping.
/// let clock = ManualClock::new();
/// let store = MemoryStore::with_clock(clock.clone());
/// clock.advance(Duration::from_secs(30));
/// # let _ = store;
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<Records>>,
    clock: Arc<dyn Clock>,
    watchers: Watchers,
    /// By what an identity is known to those who wait.
    hasher: RandomState,
}

#[derive(Default)]
struct Records {
    by_id: HashMap<RequestIdentity, Record>,
    by_expiry: BTreeMap<(Timestamp, FencingToken), RequestIdentity>,
    last_token: u64,
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(SystemClock::default())
    }

    /// An empty store on a clock of the caller's.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> Self {
        Self {
            state: Arc::default(),
            clock: Arc::new(clock),
            watchers: Watchers::new(MOST_WATCHED),
            hasher: RandomState::new(),
        }
    }

    fn notify(&self, id: &RequestIdentity) {
        self.watchers.notify(self.hasher.hash_one(id));
    }

    /// How many records there are, those past their retention included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().by_id.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("records", &self.len())
            .finish_non_exhaustive()
    }
}

impl Records {
    fn observe(&self, id: &RequestIdentity, now: Timestamp) -> Option<Record> {
        let mut record = self.by_id.get(id)?.clone();
        record.observed = now;
        Some(record)
    }

    fn put(&mut self, id: RequestIdentity, record: Record) {
        let replaced = match self.by_id.get_mut(&id) {
            Some(place) => std::mem::replace(place, record),
            None => {
                self.by_id.insert(id, record);
                return;
            }
        };
        if let State::Completed { expires, .. } = replaced.state {
            self.by_expiry.remove(&(expires, replaced.token));
        }
    }

    fn claim(&mut self, request: &ClaimRequest, now: Timestamp) -> ClaimOutcome {
        match decide(self.observe(&request.id, now), request) {
            Decision::Unchanged(outcome) => outcome,
            Decision::Grant { attempt, took_over } => {
                self.last_token += 1;
                let token = FencingToken::new(self.last_token);
                let state = State::InProgress {
                    lease_expires: now.after(request.lease),
                };
                let record = Record::new(request.id.fingerprint(), token, request.holder, attempt, state, now);
                self.put(request.id.clone(), record);
                let claim = Claim::new(request.id.clone(), token, attempt, took_over);
                ClaimOutcome::Granted(claim)
            }
        }
    }

    /// The record, if this token holds its claim.
    fn held(&mut self, id: &RequestIdentity, token: FencingToken) -> Result<&mut Record, StoreError> {
        match self.by_id.get_mut(id) {
            Some(record) if record.token == token && matches!(record.state, State::InProgress { .. }) => Ok(record),
            _ => Err(StoreError::Outdated { token }),
        }
    }

    fn complete(
        &mut self,
        claim: &Claim,
        result: RecordedResult,
        now: Timestamp,
        retention: Duration,
    ) -> Result<(), StoreError> {
        let already = self
            .by_id
            .get(claim.id())
            .is_some_and(|record| record.token == claim.token() && matches!(record.state, State::Completed { .. }));
        if already {
            return Ok(());
        }
        let expires = now.after(retention);
        let record = self.held(claim.id(), claim.token())?;
        record.state = State::Completed {
            result,
            completed: now,
            expires,
        };
        self.by_expiry.insert((expires, claim.token()), claim.id().clone());
        Ok(())
    }

    fn purge(&mut self, limit: usize, now: Timestamp) -> usize {
        let mut purged = 0;
        while purged < limit {
            match self.by_expiry.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let id = first.remove();
                    self.by_id.remove(&id);
                    purged += 1;
                }
                _ => break,
            }
        }
        purged
    }
}

impl Store for MemoryStore {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let now = self.clock.now();
        Ok(self.state.lock().claim(&request, now))
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let renewed = self.clock.now().after(lease);
        if let State::InProgress { lease_expires } = &mut self.state.lock().held(id, token)?.state {
            *lease_expires = renewed.max(*lease_expires);
        }
        Ok(())
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let lease_expires = self.clock.now().after(left);
        self.state.lock().held(id, token)?.state = State::InProgress { lease_expires };
        if left.is_zero() {
            self.notify(id);
        }
        Ok(())
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let now = self.clock.now();
        let completed = self.state.lock().complete(&claim, result, now, retention);
        self.notify(claim.id());
        completed
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        {
            let mut records = self.state.lock();
            records.held(claim.id(), claim.token())?;
            records.by_id.remove(claim.id());
        }
        self.notify(claim.id());
        Ok(())
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.state.lock().observe(id, self.clock.now());
        Ok(record.filter(|record| !record.is_past_retention()))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let now = self.clock.now();
        Ok(self.state.lock().purge(limit, now))
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        let now = self.clock.now();
        let records = self.state.lock();
        let mut doubtful: Vec<InDoubt> = records
            .by_id
            .keys()
            .filter_map(|id| InDoubt::of(id.clone(), &records.observe(id, now)?))
            .filter(|doubtful| after.is_none_or(|after| doubtful.token > after))
            .collect();
        drop(records);
        doubtful.sort_unstable_by_key(|doubtful| doubtful.token);
        doubtful.truncate(limit);
        Ok(doubtful)
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        self.watchers.watch(self.hasher.hash_one(id))
    }
}
