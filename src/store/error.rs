//! What can go wrong in a store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::record::FencingToken;

/// Why a store did not do what it was asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The claim belongs to another holder by now, or is gone.
    Outdated {
        /// The token that was outdated.
        token: FencingToken,
    },
    /// The relay was taken for dead, and others have its shards; or the database is another one than it had read from.
    RelayOutdated,
    /// Others held the store's lock for as long as it was waited for.
    Busy {
        /// How long that was.
        waited: Duration,
    },
    /// The pool had no connection to lend for as long as one was waited for. Others had them all, or the server could
    /// not be reached to make new ones.
    NoConnection,
    /// The database was changed by a newer version of this crate, and this one does not work with it any more.
    SchemaTooNew {
        /// The schema's version in the database.
        found: i64,
        /// The newest one known here.
        known: i64,
        /// The oldest one that works with what was found.
        compatible_from: i64,
    },
    /// The store rolled a transaction back: nothing that the transaction did was kept.
    RolledBack {
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The work ended the transaction that it was given, or went on after an error that ended it. Nothing that it did
    /// was kept.
    TransactionEnded,
    /// The work was over before it had dropped the transaction that it was given. Nothing of the transaction was kept
    /// or will be.
    TransactionEscaped,
    /// The work ended the transaction that it was given, or did not drop it, and the store cannot prevent that
    /// something is kept. What the work had done by then may have been committed without a record. The request is in
    /// doubt, and [held](crate::record::Record::held).
    CommittedByWork,
    /// The server has done what it was asked, or found it done, but fewer replicas acknowledged it than were wanted. A
    /// failover may lose it.
    TooFewReplicas {
        /// How many replicas acknowledged it.
        acknowledged: u32,
        /// How many should have.
        wanted: u32,
        /// How long they were waited for.
        waited: Duration,
    },
    /// A record does not make sense.
    Corrupt {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A name for our tables or keys is not valid.
    InvalidName {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The store cannot be used like this.
    Unsupported {
        /// What to do instead.
        advice: &'static str,
    },
    /// The store could not be reached, or failed.
    Unavailable {
        /// How it failed.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// Wraps the error of whatever is behind the store.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            source: source.into().into(),
        }
    }

    /// Wraps the reason why a transaction was not committed.
    pub fn rolled_back(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::RolledBack {
            source: source.into().into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outdated { token } => write!(
                f,
                "claim {token} is outdated: its lease expired and another holder took over, \
                 or it was given back; nothing was changed"
            ),
            Self::RelayOutdated => f.write_str(
                "the relay showed no sign of life for a whole lease and others have taken its shards over, or the database was \
                 replaced; it joins anew",
            ),
            Self::Busy { waited } => write!(
                f,
                "the store was locked by others for {waited:?}; try again, or look for a transaction \
                 that is kept open too long"
            ),
            Self::NoConnection => f.write_str(
                "no connection of the pool became free in time, or the pool is closed; if the server can be reached, enlarge the \
                 pool, or look for connections that are held too long",
            ),
            Self::SchemaTooNew {
                found,
                known,
                compatible_from,
            } => write!(
                f,
                "the database has schema version {found}, which needs version {compatible_from} or newer, and this version of \
                 oneflight knows up to {known}; upgrade this process"
            ),
            Self::RolledBack { source } => {
                write!(f, "the transaction could not be committed; nothing was kept: {source}")
            }
            Self::TransactionEnded => f.write_str(
                "the work ended the transaction that it was given, or went on after an error that ended it; nothing of \
                 it was kept; do not commit or roll back inside, and return on errors",
            ),
            Self::TransactionEscaped => f.write_str(
                "the work was over before it had dropped the transaction that it was given; nothing of it was kept; do not \
                 keep the transaction, nor leave it to a task that the work does not wait for",
            ),
            Self::CommittedByWork => f.write_str(
                "the work ended the transaction that it was given, or let it escape; what it had done by then may have been \
                 kept, without a record of it; find out, resolve the request, and do not commit or roll back inside",
            ),
            Self::TooFewReplicas {
                acknowledged,
                wanted,
                waited,
            } => write!(
                f,
                "{acknowledged} replicas acknowledged what was written within {waited:?}, and {wanted} should have; a failover \
                 may lose it; see whether replicas are connected and keep up"
            ),
            Self::Corrupt { what } => write!(
                f,
                "a record in the store is corrupt: {what}; look at the record, and at what else writes to the store"
            ),
            Self::InvalidName { what } => write!(f, "tables or keys cannot be named like this: {what}"),
            Self::Unsupported { advice } => f.write_str(advice),
            Self::Unavailable { source } => write!(f, "the store is not available: {source}"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The source itself is in the message.
            Self::RolledBack { source } | Self::Unavailable { source } => source.source(),
            _ => None,
        }
    }
}
