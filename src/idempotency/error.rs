//! Why a call has no reply, and what that means for the mutation.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::unfinished::{NotDone, Unknown};
use crate::flight::Panicked;
use crate::group;
use crate::identity::RequestIdentity;
use crate::record::DecodeError;
use crate::store::StoreError;
use crate::telemetry::{self, Gravity};

/// What is known of the mutation when a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// This call did nothing, or what it did was rolled back. Another one for the same request, in another process, may be at
    /// work all the same where the store cannot show it (in SQLite, in a transaction that is open): so repeat the request
    /// under the same key.
    Nothing,
    /// The work was done.
    Done,
    /// It may have been done, in part or as a whole, or is being done now.
    Unknown,
}

/// What a transaction was rolled back for, as far as the store can tell by the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RollbackKind {
    /// The database refused what it was asked for: a constraint is violated, or a value does not fit its column. Trying
    /// again does not help.
    Violation,
    /// The transaction lost to another one, by a serialization failure or a deadlock. It may be tried again at once.
    Conflict,
    /// Anything else, such as an error of the work's own. It may be tried again.
    Failure,
}

/// Why a call has no reply. Every caller that shared the flight gets the same one.
///
/// [`effect`](Self::effect) says what it means for the mutation, [`id`](Self::id) which request it is about.
///
/// Its message ends with the cause's own, for those who print no more than that. So
/// [`source`](std::error::Error::source) does not repeat the cause, and goes on with what is behind it; the cause itself is
/// in the variant's field.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The identity is known with another payload: a client's mistake.
    ///
    /// The payloads are compared by their [fingerprints](crate::identity::Fingerprint). One side with and the other without
    /// is a conflict too, since it is not known then whether they are the same. That is how a record looks that was made
    /// before a deploy which adds fingerprints, or by a client that now sends its key in another place, if the fingerprint
    /// is taken from the bytes. For the first,
    /// [`missing_fingerprint`](crate::idempotency::IdempotencyBuilder::missing_fingerprint) offers a passage; for the
    /// second, the module `oneflight::http` says what to take a fingerprint of.
    Conflict {
        /// The request.
        id: RequestIdentity,
    },
    /// Somebody else is executing the request, and was still when the wait ended. So is a request whose execution has ended
    /// without telling what it did, until that has [settled](crate::idempotency::IdempotencyBuilder::settle). A lock of the
    /// store that others held for the whole wait is no sign of that, but [`Store`](Self::Store) with [`StoreError::Busy`].
    InProgress {
        /// The request.
        id: RequestIdentity,
        /// When asking again is worthwhile.
        retry_after: Duration,
    },
    /// An earlier holder died, panicked, or did not know: it is not known what was done, and the recovery policy does not
    /// say. See [`Recovery`](crate::idempotency::Recovery).
    InDoubt {
        /// The request.
        id: RequestIdentity,
        /// Which attempt it was, from 1.
        attempt: u32,
    },
    /// The work says of itself that it did nothing. The identity is new again, unless an earlier attempt is in doubt.
    NotDone {
        /// The request.
        id: RequestIdentity,
        /// Why.
        reason: NotDone,
    },
    /// The work says of itself that it does not know what it did. The request is in doubt: the
    /// [recovery policy](crate::idempotency::Recovery) is asked about it by the next call, once what the work left has
    /// [settled](crate::idempotency::IdempotencyBuilder::settle).
    Unknown {
        /// The request.
        id: RequestIdentity,
        /// Why.
        reason: Unknown,
    },
    /// The work in a transaction failed, or its commit did: everything is rolled back, and the identity is new again.
    ///
    /// Whether trying again helps depends on the [kind](RollbackKind): a constraint that was violated is violated the next
    /// time as well. What is refused for good should be
    /// [`Rollback::Declined`](crate::idempotency::Rollback::Declined), which is recorded and replayed.
    RolledBack {
        /// The request.
        id: RequestIdentity,
        /// What the store makes of the error.
        kind: RollbackKind,
        /// What failed: the error that the work returned, or a [`StoreError`].
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The work panicked. In a transaction it was rolled back; otherwise it is in doubt what was done.
    Panicked {
        /// The request.
        id: RequestIdentity,
        /// The panic's message.
        panic: Panicked,
        /// What is known of the mutation.
        effect: Effect,
    },
    /// The result is too large to be kept. In a transaction, the work was rolled back. Otherwise it was
    /// *done*, and that fact is recorded: it is not done again, and every call gets this answer.
    ResultTooLarge {
        /// The request.
        id: RequestIdentity,
        /// The size of the encoded result, in bytes.
        size: u64,
        /// The limit in force when the work was done, in bytes.
        limit: usize,
        /// Whether the work was done or rolled back.
        effect: Effect,
    },
    /// The result cannot be encoded, or cannot be decoded as the type asked for.
    Codec {
        /// The request.
        id: RequestIdentity,
        /// What the codec says.
        source: CodecError,
        /// Whether the work was done or rolled back.
        effect: Effect,
    },
    /// The work was done, but its lease had been lost and another holder took over: the result was refused,
    /// and the work may have been done twice. Shorten the work, or lengthen the lease.
    LeaseLost {
        /// The request.
        id: RequestIdentity,
    },
    /// The work was done, but the store could not be told. The request is in doubt once the lease ends.
    Unrecorded {
        /// The request.
        id: RequestIdentity,
        /// What the store says.
        source: Arc<StoreError>,
    },
    /// The store failed.
    ///
    /// The effect is unknown also where this call has not begun the work, but may have been granted a claim that is not given
    /// back so far: until that is done, or if it cannot be done, the request counts as in progress, then as in doubt.
    Store {
        /// The request.
        id: RequestIdentity,
        /// What the store says.
        source: Arc<StoreError>,
        /// What is known of the mutation.
        effect: Effect,
    },
    /// The flight in process did not take off: a limit, a circle, or no runtime.
    Flight {
        /// The request.
        id: RequestIdentity,
        /// Why.
        source: group::Error,
    },
}

impl Error {
    /// Which request it is about.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        match self {
            Self::Conflict { id }
            | Self::InProgress { id, .. }
            | Self::InDoubt { id, .. }
            | Self::NotDone { id, .. }
            | Self::Unknown { id, .. }
            | Self::RolledBack { id, .. }
            | Self::Panicked { id, .. }
            | Self::ResultTooLarge { id, .. }
            | Self::Codec { id, .. }
            | Self::LeaseLost { id }
            | Self::Unrecorded { id, .. }
            | Self::Store { id, .. }
            | Self::Flight { id, .. } => id,
        }
    }

    /// What is known of the mutation.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::Conflict { .. } | Self::NotDone { .. } | Self::RolledBack { .. } => Effect::Nothing,
            Self::InProgress { .. } | Self::InDoubt { .. } | Self::Unknown { .. } => Effect::Unknown,
            Self::LeaseLost { .. } | Self::Unrecorded { .. } => Effect::Done,
            Self::Panicked { effect, .. }
            | Self::ResultTooLarge { effect, .. }
            | Self::Codec { effect, .. }
            | Self::Store { effect, .. } => *effect,
            Self::Flight { source, .. } => match source {
                group::Error::Aborted => Effect::Unknown,
                _ => Effect::Nothing,
            },
        }
    }

    /// What the message ends with.
    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotDone { reason, .. } => Some(reason.get_ref()),
            Self::Unknown { reason, .. } => Some(reason.get_ref()),
            Self::RolledBack { source, .. } => Some(&**source),
            Self::Codec { source, .. } => Some(source),
            Self::Unrecorded { source, .. } | Self::Store { source, .. } => Some(&**source),
            Self::Flight { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Tells the log.
    pub(super) fn tell(&self) {
        let gravity = match self {
            // Told when it was given up.
            Self::Unrecorded { .. } => return,
            // A client's doing, or an answer like any other.
            Self::Conflict { .. } | Self::InProgress { .. } | Self::Flight { .. } => Gravity::Routine,
            Self::InDoubt { .. } | Self::NotDone { .. } | Self::Unknown { .. } | Self::Store { .. } => Gravity::Trouble,
            Self::RolledBack { kind, .. } if *kind != RollbackKind::Violation => Gravity::Trouble,
            _ => Gravity::Fault,
        };
        telemetry::unanswered(gravity, self.id(), &self.effect(), &WithoutRequest(self));
    }

    pub(super) fn store(id: &RequestIdentity, source: StoreError, effect: Effect) -> Self {
        Self::Store {
            id: id.clone(),
            source: Arc::new(source),
            effect,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}: {}", self.id(), WithoutRequest(self))
    }
}

/// An error that does not begin with its request.
#[derive(Debug)]
struct WithoutRequest<'a>(&'a Error);

impl fmt::Display for WithoutRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tell_what(f)?;
        match self.0.cause() {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl StdError for WithoutRequest<'_> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl Error {
    fn tell_what(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { .. } => {
                f.write_str("its idempotency key was used before with another payload; use a new key for a new request")
            }
            Self::InProgress { retry_after, .. } => {
                write!(f, "it is being executed elsewhere; ask again in {retry_after:?}")
            }
            Self::InDoubt { attempt, .. } => write!(
                f,
                "attempt {attempt} ended without telling what it did; find out, then resolve it as \
                 completed or to be run again"
            ),
            Self::NotDone { .. } => f.write_str("nothing was done; it may be tried again"),
            Self::Unknown { .. } => f.write_str("its work does not know what it did; it is in doubt"),
            Self::RolledBack { kind, .. } => f.write_str(match kind {
                RollbackKind::Violation => {
                    "the database refuses what its work asked for, and will again; it was rolled back; answer such a \
                     request as refused"
                }
                RollbackKind::Conflict => {
                    "its transaction lost to another one and was rolled back; it may be tried again"
                }
                RollbackKind::Failure => {
                    "its transaction failed and was rolled back; it may be tried again, but refuse what can never \
                     succeed"
                }
            }),
            Self::Panicked {
                panic,
                effect: Effect::Nothing,
                ..
            } => write!(f, "its work panicked and was rolled back: {}", panic.message()),
            Self::Panicked { panic, .. } => write!(
                f,
                "its work panicked; what it did before that has happened: {}",
                panic.message()
            ),
            Self::ResultTooLarge {
                size, limit, effect, ..
            } => {
                write!(f, "its result has {size} bytes, and {limit} are kept at most; ")?;
                f.write_str(done_or_not(*effect))
            }
            Self::Codec { effect, .. } => {
                f.write_str("its result cannot be encoded or decoded; ")?;
                f.write_str(done_or_not(*effect))
            }
            Self::LeaseLost { .. } => f.write_str(
                "its work was done, but outlived its lease, and another holder took over: it may have been \
                 done twice; lengthen the lease",
            ),
            Self::Unrecorded { .. } => {
                f.write_str("its work was done, but that could not be recorded; it is in doubt when its lease ends")
            }
            Self::Store { effect, .. } => {
                f.write_str("the store failed; ")?;
                f.write_str(done_or_not(*effect))
            }
            Self::Flight { .. } => f.write_str("it was not executed"),
        }
    }
}

fn done_or_not(effect: Effect) -> &'static str {
    match effect {
        Effect::Nothing => "nothing was done",
        Effect::Done => "the work was done, and is not done again",
        Effect::Unknown => "it is not known whether the work was done",
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause()?.source()
    }
}

/// What is wrong with a result on its way to or from the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CodecError {
    /// The value cannot be written as JSON.
    Encode(Arc<dyn StdError + Send + Sync>),
    /// The value can be written as JSON, and cannot be read again: a number that is none (NaN), too deep a nesting, a
    /// `Serialize` that does not fit its `Deserialize`.
    Unreadable(Arc<dyn StdError + Send + Sync>),
    /// The recorded value cannot be read as the type that was asked for.
    Decode(Arc<dyn StdError + Send + Sync>),
    /// The recorded result's layout is not known.
    Layout(DecodeError),
    /// The recorded result is compressed, and this process cannot read it: it is built without the feature `compress`.
    Compressed,
    /// The work was done earlier, and its result could not be encoded then, or not be read again.
    NotRecorded,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(_) => f.write_str("the result cannot be written as JSON"),
            Self::Unreadable(_) => f.write_str("the result does not survive its own JSON: it cannot be read again"),
            Self::Decode(_) => f.write_str(
                "the recorded result cannot be read as the type asked for; was it another type when it was \
                 recorded?",
            ),
            Self::Layout(_) => f.write_str("the recorded result cannot be read"),
            Self::Compressed => {
                f.write_str("the recorded result is compressed; build this process with oneflight's feature `compress`")
            }
            Self::NotRecorded => f.write_str("the result could not be encoded when the work was done"),
        }
    }
}

impl StdError for CodecError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Encode(source) | Self::Unreadable(source) | Self::Decode(source) => Some(&**source),
            Self::Layout(source) => Some(source),
            Self::Compressed | Self::NotRecorded => None,
        }
    }
}
