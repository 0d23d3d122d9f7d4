//! Why a call has no reply, and what that means for the mutation.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::flight::Panicked;
use crate::group;
use crate::identity::RequestId;
use crate::record::DecodeError;
use crate::store::StoreError;

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

/// Why a call has no reply. Every caller that shared the flight gets the same one.
///
/// [`effect`](Self::effect) says what it means for the mutation, [`id`](Self::id) which request it is about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The identity is known with another payload: a client's mistake.
    Conflict {
        /// The request.
        id: RequestId,
    },
    /// Somebody else is executing the request, and was still when the wait ended. A lock of the store that others held for
    /// the whole wait is no sign of that, but [`Store`](Self::Store) with [`StoreError::Busy`].
    InProgress {
        /// The request.
        id: RequestId,
        /// When asking again is worthwhile.
        retry_after: Duration,
    },
    /// An earlier holder died or panicked: it is not known what was done, and the recovery policy does not
    /// say. See [`Recovery`](crate::idempotency::Recovery).
    InDoubt {
        /// The request.
        id: RequestId,
        /// Which attempt it was, from 1.
        attempt: u32,
    },
    /// The work says of itself that it did nothing. The identity is new again, unless an earlier attempt is in doubt.
    NotDone {
        /// The request.
        id: RequestId,
        /// Why.
        reason: NotDone,
    },
    /// The work in a transaction failed, or its commit did: everything is rolled back, and the identity is new again.
    ///
    /// Whether trying again helps depends on the error: a constraint that was violated is violated the next time as
    /// well. What is refused for good should be
    /// [`Rollback::Refused`](crate::idempotency::Rollback::Refused), which is recorded and replayed.
    RolledBack {
        /// The request.
        id: RequestId,
        /// What failed: the error that the work returned, or a [`StoreError`].
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The work panicked. In a transaction it was rolled back; otherwise it is in doubt what was done.
    Panicked {
        /// The request.
        id: RequestId,
        /// The panic's message.
        panic: Panicked,
        /// What is known of the mutation.
        effect: Effect,
    },
    /// The result is too large to be kept. In a transaction, the work was rolled back. Otherwise it was
    /// *done*, and that fact is recorded: it is not done again, and every call gets this answer.
    ResultTooLarge {
        /// The request.
        id: RequestId,
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
        id: RequestId,
        /// What the codec says.
        source: CodecError,
        /// Whether the work was done or rolled back.
        effect: Effect,
    },
    /// The work was done, but its lease had been lost and another holder took over: the result was refused,
    /// and the work may have been done twice. Shorten the work, or lengthen the lease.
    LeaseLost {
        /// The request.
        id: RequestId,
    },
    /// The work was done, but the store could not be told. The request is in doubt once the lease ends.
    Unrecorded {
        /// The request.
        id: RequestId,
        /// What the store says.
        source: Arc<StoreError>,
    },
    /// The store failed.
    Store {
        /// The request.
        id: RequestId,
        /// What the store says.
        source: Arc<StoreError>,
        /// What is known of the mutation.
        effect: Effect,
    },
    /// The flight in process did not take off: a limit, a circle, or no runtime.
    Flight {
        /// The request.
        id: RequestId,
        /// Why.
        source: group::Error,
    },
}

impl Error {
    /// Which request it is about.
    #[must_use]
    pub fn id(&self) -> &RequestId {
        match self {
            Self::Conflict { id }
            | Self::InProgress { id, .. }
            | Self::InDoubt { id, .. }
            | Self::NotDone { id, .. }
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
            Self::InProgress { .. } | Self::InDoubt { .. } => Effect::Unknown,
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

    pub(super) fn store(id: &RequestId, source: StoreError, effect: Effect) -> Self {
        Self::Store {
            id: id.clone(),
            source: Arc::new(source),
            effect,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}: ", self.id())?;
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
            Self::RolledBack { .. } => f.write_str(
                "its transaction failed and was rolled back; it may be tried again, but refuse what can never succeed",
            ),
            Self::Panicked {
                effect: Effect::Nothing,
                ..
            } => f.write_str("its work panicked and was rolled back"),
            Self::Panicked { .. } => f.write_str("its work panicked; what it did before that has happened"),
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
        match self {
            Self::NotDone { reason, .. } => Some(reason.get_ref()),
            Self::RolledBack { source, .. } => Some(&**source),
            Self::Panicked { panic, .. } => Some(panic),
            Self::Codec { source, .. } => Some(source),
            Self::Unrecorded { source, .. } | Self::Store { source, .. } => Some(&**source),
            Self::Flight { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The work's own statement that it did nothing. It frees the identity, and reaches every caller.
///
/// There is no conversion from errors by `?`, on purpose: that something failed does not mean that nothing
/// was done. Say it only where you know it.
///
/// ```
/// use oneflight::idempotency::NotDone;
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let reason = NotDone::because(refused);
/// assert!(reason.downcast_ref::<std::io::Error>().is_some());
/// ```
#[derive(Clone)]
pub struct NotDone(Arc<dyn StdError + Send + Sync>);

impl NotDone {
    /// Nothing was done, for this reason: an error or a text.
    pub fn because(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(reason.into().into())
    }

    /// The reason.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }

    /// The reason, if it is of this type.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotDone").field(&self.0).finish()
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
