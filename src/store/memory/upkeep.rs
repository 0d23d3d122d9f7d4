//! Looking into a store in memory.
//!
//! As for the operations, the order of locks is record, then steps.

use super::{Kept, MemoryStore, Records};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult, State, Timestamp};
use crate::store::error::StoreError;
use crate::store::upkeep::{
    Erase, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordQuery, RecordState, Soundness, Upkeep,
};

impl Records {
    fn list(&self, query: &RecordQuery, now: Timestamp) -> Result<RecordPage, StoreError> {
        let after = match &query.after {
            Some(cursor) => Some(cursor.place().ok_or(RecordCursor::OF_ANOTHER_STORE)?),
            None => None,
        };
        let is_after = |id: &RequestIdentity| match &after {
            Some((scope, key)) => (id.scope().as_bytes(), id.key().as_bytes()) > (&**scope, &**key),
            None => true,
        };
        let mut entries: Vec<RecordEntry> = self
            .by_id
            .iter()
            .filter(|known| is_after(known.key()) && query.has_scope(known.key().scope()))
            .filter(|known| query.key.as_ref().is_none_or(|key| key == known.key().key()))
            .filter(|known| query.correlation_id.is_none() || query.correlation_id == known.correlation_id)
            .map(|known| self.entry(known.key(), &known, now))
            .filter(|entry| !entry.record.is_past_retention())
            .filter(|entry| query.state.is_none_or(|state| state == entry.state))
            .collect();
        entries.sort_unstable_by(|a, b| (a.id.scope(), a.id.key()).cmp(&(b.id.scope(), b.id.key())));
        let more = entries.len() > query.limit;
        entries.truncate(query.limit);
        let last = entries.last().filter(|_| more);
        Ok(RecordPage {
            next: last.map(|last| RecordCursor::behind(last.id.scope().as_bytes(), last.id.key().as_bytes())),
            entries,
            unreadable: 0,
        })
    }

    fn entry(&self, id: &RequestIdentity, known: &Kept, now: Timestamp) -> RecordEntry {
        let mut entry = RecordEntry::new(id.clone(), known.observed_at(now));
        entry.claimed = Some(known.claimed);
        entry.correlation_id.clone_from(&known.correlation_id);
        let beside = self.steps.get(id);
        if let Some(beside) = beside.filter(|beside| beside.belongs_to(known) && known.result().is_none()) {
            entry.record.held |= beside.held;
            if !beside.held {
                entry.state = RecordState::InProgress;
            }
        }
        entry
    }

    /// Returns what is completed in a scope, one more than is asked for.
    fn completed(
        &self,
        scope: &str,
        limit: usize,
        is_meant: impl Fn(&RequestIdentity, &Record) -> bool,
    ) -> Vec<RequestIdentity> {
        let query = RecordQuery {
            scope: Some(scope.to_owned()),
            ..RecordQuery::default()
        };
        let known = self.by_id.iter();
        known
            .filter(|known| known.result().is_some() && query.has_scope(known.key().scope()))
            .filter(|known| is_meant(known.key(), known))
            .map(|known| known.key().clone())
            .take(limit.saturating_add(1))
            .collect()
    }

    fn erase_record(&self, id: &RequestIdentity, of: Option<FencingToken>) -> bool {
        let place = self.by_id.get(id).and_then(|record| record.place_by_expiry());
        let place = place.filter(|(_, token)| of.is_none_or(|of| of == *token));
        let Some((expires, token)) = place else { return false };
        let is_removed = self.remove_if(id, |record| record.token == token && record.result().is_some());
        if is_removed {
            self.expiries(token).lock().remove(&(expires, token));
        }
        is_removed
    }

    fn erase_answer(&self, id: &RequestIdentity, of: Option<FencingToken>) -> bool {
        let record = self.by_id.get_mut(id);
        let Some(mut record) = record.filter(|record| of.is_none_or(|of| of == record.token)) else {
            return false;
        };
        let State::Completed { result, .. } = &mut record.state else {
            return false;
        };
        let mut is_erased = erase(result);
        if let Some(mut beside) = self.steps.get_mut(id) {
            is_erased |= erase(&mut beside.input);
            for step in &mut beside.steps {
                is_erased |= step.result.as_mut().is_some_and(erase);
            }
        }
        is_erased
    }

    fn erase_one(&self, id: &RequestIdentity, of: Option<FencingToken>, what: Erase) -> bool {
        match what {
            Erase::Records => self.erase_record(id, of),
            Erase::Answers => self.erase_answer(id, of),
        }
    }

    fn has_answer(&self, id: &RequestIdentity, record: &Record) -> bool {
        let has_value = |result: &RecordedResult| result.erased().is_some();
        let beside = self.steps.get(id);
        record.result().is_some_and(has_value)
            || beside.is_some_and(|beside| {
                let steps = beside.steps.iter().filter_map(|step| step.result.as_ref());
                steps.chain([&beside.input]).any(has_value)
            })
    }

    fn hold(&self, id: &RequestIdentity, token: FencingToken) -> bool {
        match self.by_id.get_mut(id) {
            Some(mut record) if record.is_claimed_by(token) => {
                match self.steps.get_mut(&id.known_as(None)) {
                    Some(mut beside) if beside.token == token => beside.held = true,
                    _ => record.held = true,
                }
                true
            }
            _ => false,
        }
    }
}

/// Returns whether there was something to erase.
fn erase(result: &mut RecordedResult) -> bool {
    let erased = result.erased();
    erased.map(|erased| *result = erased).is_some()
}

impl Upkeep for MemoryStore {
    async fn records(&self, query: RecordQuery) -> Result<RecordPage, StoreError> {
        let now = self.0.clock.now();
        self.0.list(&query, now)
    }

    /// Passes all records each time: those that were erased are not among those that are found.
    async fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Erased, StoreError> {
        if after.is_some_and(|after| after.place().is_none()) {
            return Err(RecordCursor::OF_ANOTHER_STORE);
        }
        let mut found = match what {
            Erase::Records => self.0.completed(scope, limit, |_, _| true),
            Erase::Answers => self
                .0
                .completed(scope, limit, |id, record| self.0.has_answer(id, record)),
        };
        let more = found.len() > limit;
        found.truncate(limit);
        let erased = found.iter().filter(|id| self.0.erase_one(id, None, what)).count();
        Ok(Erased {
            erased: erased as u64,
            next: more.then(|| RecordCursor::behind(b"", b"")),
        })
    }

    async fn erase_one(&self, id: &RequestIdentity, token: FencingToken, what: Erase) -> Result<bool, StoreError> {
        let known = self.0.by_id.get(id);
        let is_it = known.is_some_and(|known| known.token == token && known.result().is_some());
        Ok(is_it && (self.0.erase_one(id, Some(token), what) || what == Erase::Answers))
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        Ok(self.0.hold(id, token))
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        let durability = Finding::new(
            "durability",
            Soundness::Remarkable,
            "the records are in the memory of this process",
        )
        .advise("Keep records in a database if a mutation must not be done again after a restart.");
        let records = Finding::new("records", Soundness::Sound, format!("{} records", self.len()));
        Ok(vec![durability, records])
    }
}
