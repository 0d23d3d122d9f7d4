//! What an operator does with the records of a store: the [`Upkeep`] trait.
//!
//! A service needs none of this. The command `oneflight` and its dashboard do, and so does any other desk of that kind.

use std::future::Future;
use std::sync::Arc;

use super::contract::Store;
use super::error::StoreError;
use super::foreign::{hex, unhex};
use crate::correlation::CorrelationId;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, Timestamp};

/// In which state a record is, for those who look for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordState {
    /// A holder has it, and its lease runs.
    InProgress,
    /// The lease of its holder is over, and nobody goes on with it by itself.
    InDoubt,
    /// The work was done, and its result is kept. What is past its retention is not listed.
    Completed,
}

/// Which records are looked for, and how many at a time. All conditions that are set have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordQuery {
    /// The scope in its [canonical form](RequestIdentity::scope), or a beginning of it that ends where one of its parts does:
    /// `tenant-7` is of `tenant-7` and `tenant-7|route=POST /orders`, and not of `tenant-70`.
    pub scope: Option<String>,
    /// The key, whole.
    pub key: Option<String>,
    /// The state.
    pub state: Option<RecordState>,
    /// The id of the request that claimed.
    pub correlation_id: Option<CorrelationId>,
    /// Where the last page ended.
    pub after: Option<RecordCursor>,
    /// How many are returned at most. A page may have fewer, and be followed by others all the same.
    pub limit: usize,
}

impl RecordQuery {
    /// Asks for all, so many at a time.
    #[must_use]
    pub fn all(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Returns whether a scope is the one that is asked for, or a narrower one.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        let Some(asked) = &self.scope else { return true };
        match scope.strip_prefix(&**asked) {
            Some(rest) => rest.is_empty() || rest.starts_with('|'),
            None => false,
        }
    }
}

/// A range of scopes, in the order of their bytes: from the first up to but not including the second, if there is one.
pub type ScopeRange = (String, Option<String>);

/// Where a record stands in the order of scope and key, which may be none that is valid.
pub type RecordPlace = (Vec<u8>, Vec<u8>);

impl RecordQuery {
    /// Returns the ranges in which the scopes that are asked for stand, in the order of their bytes: from the first of each, up to
    /// but not including the second, if there is one. No other scope stands in them.
    ///
    /// This is for a store that keeps its records in that order.
    #[must_use]
    pub fn scope_ranges(&self) -> Vec<ScopeRange> {
        let Some(scope) = &self.scope else {
            return vec![(String::new(), None)];
        };
        // A scope has no control characters. The parts begin with `|`, which is followed by `}`.
        vec![
            (scope.clone(), Some(format!("{scope}\u{1}"))),
            (format!("{scope}|"), Some(format!("{scope}}}"))),
        ]
    }
}

/// Where a page of records ended. What it says is the store's affair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordCursor(Arc<str>);

impl RecordCursor {
    /// The error of a store for a cursor that is none of its own.
    pub const OF_ANOTHER_STORE: StoreError = StoreError::Unsupported {
        advice: "the cursor is one of another store; begin at the first page",
    };

    /// Makes a cursor of a store's own words.
    #[must_use]
    pub fn new(words: impl Into<Arc<str>>) -> Self {
        Self(words.into())
    }

    /// Makes the cursor of a store that lists its records in the order of scope and key.
    #[must_use]
    pub fn behind(scope: &[u8], key: &[u8]) -> Self {
        Self::new(format!("{}.{}", hex(scope), hex(key)))
    }

    /// Returns scope and key of the record that this is [behind](Self::behind), or `None` if it is a cursor of another kind.
    #[must_use]
    pub fn place(&self) -> Option<RecordPlace> {
        let (scope, key) = self.0.split_once('.')?;
        Some((unhex(scope)?, unhex(key)?))
    }

    /// Returns the words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A record, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordEntry {
    /// Whose it is, with the fingerprint that it was claimed with.
    pub id: RequestIdentity,
    /// What is known of it.
    pub record: Record,
    /// The state that it is in. A mutation of steps that goes on by itself is in progress, although its lease is over.
    pub state: RecordState,
    /// When the claim was taken that is in it, if the store keeps that.
    pub claimed: Option<Timestamp>,
    /// The id of the request that claimed, if it had one.
    pub correlation_id: Option<CorrelationId>,
}

impl RecordEntry {
    /// Makes an entry, as a store lists it, with the fingerprint and the state that the record says.
    #[must_use]
    pub fn new(id: RequestIdentity, record: Record) -> Self {
        let state = match record.lease_remaining() {
            None => RecordState::Completed,
            Some(left) if left.is_zero() => RecordState::InDoubt,
            Some(_) => RecordState::InProgress,
        };
        Self {
            id: id.known_as(record.fingerprint),
            record,
            state,
            claimed: None,
            correlation_id: None,
        }
    }
}

/// A page of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// The records. In SQL stores they are in the order of scope and key.
    pub entries: Vec<RecordEntry>,
    /// Where to go on, if there may be more.
    pub next: Option<RecordCursor>,
    /// How many records could not be read, and are left out.
    pub unreadable: u64,
}

/// What is erased of completed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Erase {
    /// The answers, and what a mutation of steps was started with. That the work was done stays known, so it does not run again:
    /// what is left of a result is said [there](crate::record::RecordedResult::erased). Steps lose their answers as well.
    Answers,
    /// The records. A request that comes again is new, and runs.
    Records,
}

/// What erasing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// How many records were erased, or lost their answer.
    pub erased: u64,
    /// Where to go on, if there may be more.
    pub next: Option<RecordCursor>,
}

impl Erased {
    /// Says how many records were erased, or lost their answer, and where to go on, if there may be more.
    pub fn new(erased: u64, next: Option<RecordCursor>) -> Self {
        Self { erased, next }
    }
}

/// How a record store was set up, and whether that breaks a promise here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a few words: `clock`, `isolation`, `eviction policy`.
    pub name: &'static str,
    /// What it means.
    pub verdict: Soundness,
    /// What was found.
    pub found: String,
    /// What to do, if it is not sound: one sentence.
    pub advice: Option<String>,
}

/// Whether what was found keeps the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Soundness {
    /// It does.
    Sound,
    /// It keeps them, at a cost, or under a condition that is to be known.
    Remarkable,
    /// A promise is broken.
    Broken,
    /// It could not be looked at.
    Unknown,
}

impl Finding {
    /// Tells what was found.
    #[must_use]
    pub fn new(name: &'static str, verdict: Soundness, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            advice: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

const UNSUPPORTED: StoreError = StoreError::Unsupported {
    advice: "this store cannot be looked into; look up the identities that you know of",
};

/// A store that an operator can look into.
///
/// # Cancel safety
///
/// A caller may drop the future of any operation. The operation has then happened as a whole, or has not happened, or
/// happens as a whole later.
pub trait Upkeep: Store {
    /// Lists records, page by page.
    ///
    /// What changes while pages are read may be listed or not. What does not change is listed once in a SQL store, and at
    /// least once in Redis.
    ///
    /// # Errors
    ///
    /// * [`StoreError::Unsupported`] for a cursor of another store.
    /// * The store cannot be reached or understood.
    fn records(&self, query: RecordQuery) -> impl Future<Output = Result<RecordPage, StoreError>> + Send {
        let _ = query;
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Erases up to `limit` completed records of a scope, or their answers. The scope is meant as in [`RecordQuery::scope`].
    ///
    /// What is in progress or in doubt stays. A batch begins where the last one [ended](Erased::next), or at the first record. What
    /// is completed before that place meanwhile may stay.
    ///
    /// # Errors
    ///
    /// * [`StoreError::Unsupported`] for a cursor of another store.
    /// * The store cannot be reached. Some may have been erased.
    fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        let _ = (scope, what, after, limit);
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Erases the record of one request, or its answer, if it was completed under this token. Returns whether it was: what is in
    /// progress or in doubt, or was completed under another token, stays as it is. An answer may be erased twice.
    ///
    /// # Errors
    ///
    /// * [`StoreError::Unsupported`] if the store erases whole scopes only.
    /// * The store cannot be reached.
    fn erase_one(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        what: Erase,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (id, token, what);
        std::future::ready(Err(StoreError::Unsupported {
            advice: "this store erases whole scopes only",
        }))
    }

    /// Has a request wait for an operator's decision, once its lease is over: no call takes it over any more because its lease
    /// is over, but only a claim that [names its token](super::Takeover::Of). That is one that settles it, or one of a policy
    /// that [asks](crate::idempotency::Recovery::ask) about this very request. Returns whether it is held: it is not if the token
    /// holds no claim.
    ///
    /// A mutation of steps is [held](super::Standing::Held), until a person lets it go on.
    ///
    /// A transaction that has begun by then does its work, and commits it with the record, all the same.
    ///
    /// Processes of a version that knows of no holds take over as before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] if the store has no place for that.
    fn hold(&self, id: &RequestIdentity, token: FencingToken) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (id, token);
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Looks at how the store is set up.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. What could not be looked at in a store that can be reached is a finding.
    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>, StoreError>> + Send {
        std::future::ready(Err(UNSUPPORTED))
    }
}

/// A shared store.
impl<S: Upkeep> Upkeep for Arc<S> {
    fn records(&self, query: RecordQuery) -> impl Future<Output = Result<RecordPage, StoreError>> + Send {
        S::records(self, query)
    }

    fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        S::erase(self, scope, what, after, limit)
    }

    fn erase_one(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        what: Erase,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::erase_one(self, id, token, what)
    }

    fn hold(&self, id: &RequestIdentity, token: FencingToken) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::hold(self, id, token)
    }

    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>, StoreError>> + Send {
        S::findings(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_scope_have_that_scope_and_narrower_ones() {
        let query = RecordQuery {
            scope: Some("tenant-7".to_owned()),
            ..RecordQuery::all(1)
        };
        let ranges = query.scope_ranges();
        for scope in [
            "tenant-7",
            "tenant-7|route=POST /orders",
            "tenant-7|user=~",
            "tenant-70",
            "tenant-7-b",
            "tenant-7}",
            "tenant-7~",
            "tenant-",
            "tenant-8",
            "a",
            "~",
        ] {
            let is_in_one = ranges
                .iter()
                .any(|(from, to)| scope >= from.as_str() && to.as_ref().is_none_or(|to| scope < to.as_str()));
            assert_eq!(is_in_one, query.has_scope(scope), "{scope}");
        }
    }

    #[test]
    fn a_cursor_tells_the_place_that_it_was_made_of() {
        let cursor = RecordCursor::behind(b"tenant-7|user=.", b"a.7\xff");
        assert_eq!(cursor.place(), Some((b"tenant-7|user=.".to_vec(), b"a.7\xff".to_vec())));
        for other in ["", "ab", "r:12.ab", "0g.00"] {
            assert_eq!(RecordCursor::new(other).place(), None, "{other}");
        }
    }
}
