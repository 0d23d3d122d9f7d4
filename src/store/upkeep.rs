//! What an operator does with the records of a store: the [`Upkeep`] trait.
//!
//! A service needs none of this. The command `oneflight` and its dashboard do, and so does whoever writes such a desk.

use std::future::Future;
use std::sync::Arc;

use super::contract::Store;
use super::error::StoreError;
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

/// Where a page of records ended. What it says is the store's affair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordCursor(Arc<str>);

impl RecordCursor {
    /// Makes a cursor of a store's own words.
    #[must_use]
    pub fn new(words: impl Into<Arc<str>>) -> Self {
        Self(words.into())
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
    /// When the claim was taken that is in it, if the store keeps that.
    pub claimed: Option<Timestamp>,
    /// The id of the request that claimed, if it had one.
    pub correlation_id: Option<CorrelationId>,
}

impl RecordEntry {
    /// Makes an entry, as a store lists it.
    #[must_use]
    pub fn new(id: RequestIdentity, record: Record) -> Self {
        Self {
            id,
            record,
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
    /// The answers. That the work was done stays known, so it does not run again.
    Answers,
    /// The records. A request that comes again is new, and runs.
    Records,
}

/// What erasing came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// How many records were erased, or lost their answer.
    pub erased: u64,
    /// Whether there may be more.
    pub more: bool,
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
    /// What is in progress or in doubt stays.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. Some may have been erased.
    fn erase(&self, scope: &str, what: Erase, limit: usize) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        let _ = (scope, what, limit);
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Has a request wait for an operator's decision, once its lease is over: no call takes it over any more, whatever its
    /// policy says. Returns whether it is held.
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

    fn erase(&self, scope: &str, what: Erase, limit: usize) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        S::erase(self, scope, what, limit)
    }

    fn hold(&self, id: &RequestIdentity, token: FencingToken) -> impl Future<Output = Result<bool, StoreError>> + Send {
        S::hold(self, id, token)
    }

    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>, StoreError>> + Send {
        S::findings(self)
    }
}

/// Which migrations a database has, and which it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The version of its schema: 0 if it has none.
    pub found: i64,
    /// The version that this crate works with.
    pub known: i64,
    /// What is to be applied, in order: a version and what it is for.
    pub missing: Vec<(i64, &'static str)>,
}
