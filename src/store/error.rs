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
    /// The store was reached, and said why it does not do what it was asked.
    Failed {
        /// Why.
        failure: StoreFailure,
        /// What it said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The store could not be reached, or failed in a way of its own.
    Unavailable {
        /// How it failed.
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// Why a store that was reached did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreFailure {
    /// It has no such user, or not with this password.
    NotLoggedIn,
    /// The user may log in, and has no right to this.
    Forbidden,
    /// It may only be read: a standby, say, or a file that this process may not write.
    ReadOnly,
    /// There is no room left for it.
    Full,
    /// Others held a lock for as long as the server lets one be waited for.
    Locked,
    /// It broke the statement off, after its own limit of time, or because somebody told it to.
    Cancelled,
    /// The database, a table of ours or the file is not there, or cannot be opened.
    NotFound,
    /// The database is damaged, or the file is none of a database.
    Damaged,
}

impl StoreFailure {
    /// Returns whether nothing can have been done of what was asked.
    pub(crate) fn is_before_all(self) -> bool {
        match self {
            Self::NotLoggedIn | Self::Forbidden | Self::ReadOnly | Self::NotFound | Self::Locked => true,
            // They may come of a commit as well.
            Self::Full | Self::Cancelled | Self::Damaged => false,
        }
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLoggedIn => {
                "the store does not let this user in; look at the user, the password, and the server's rules of who may come \
                 from where"
            }
            Self::Forbidden => {
                "this user has no right to what it asked of the store; grant it the right, or use another user"
            }
            Self::ReadOnly => {
                "the store may only be read here; connect to the primary if this is a standby, or see who may write the file \
                 and its directory"
            }
            Self::Full => "there is no room left for the store; make some on its disk",
            Self::Locked => {
                "others held a lock of the store for as long as its server lets one be waited for; try again, or look for a \
                 transaction that is kept open too long"
            }
            Self::Cancelled => {
                "the store broke a statement off before it was done; see whether its limit of time is too short, or who \
                 cancelled it"
            }
            Self::NotFound => {
                "what the store is kept in is not there, or cannot be opened; look at its name and place, and apply the \
                 migrations if tables are missing"
            }
            Self::Damaged => "what the store is kept in is damaged, or is no database; see its name, or restore a backup",
        })
    }
}

impl StoreError {
    /// Wraps the error of whatever is behind the store.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            source: source.into().into(),
        }
    }

    /// Wraps what a store that was reached said, under why that was.
    pub fn failed(failure: StoreFailure, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed {
            failure,
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
            Self::Failed { failure, source } => write!(f, "{failure}: {source}"),
            Self::Unavailable { source } => write!(f, "the store is not available: {source}"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The source itself is in the message.
            Self::RolledBack { source } | Self::Failed { source, .. } | Self::Unavailable { source } => source.source(),
            _ => None,
        }
    }
}
