//! Why a call has no reply, and what that means for the mutation.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::codec_error::CodecError;
use super::step_error::StepError;
use super::unfinished::{NotDone, Unknown};
use crate::flight::Panicked;
use crate::group;
use crate::identity::RequestIdentity;
use crate::store::{StoreError, find};
use crate::telemetry::{self, Gravity};

/// What is known of the mutation when a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// This call did nothing, or what it did was rolled back.
    ///
    /// Repeat the request under the same key. Another call for the same request, in another process, may be at work
    /// where the store cannot show it: in SQLite, in a transaction that is open.
    Nothing,
    /// The work was done.
    Done,
    /// The work may have been done, in part or as a whole, or is being done now.
    Unknown,
}

/// Why a transaction was rolled back, as far as the store can tell by the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RollbackKind {
    /// The database rejected what the work asked for: it violates a constraint, or a value does not fit its column.
    /// Trying again does not help.
    Violation,
    /// The transaction lost to another one, by a serialization failure or a deadlock. It may be tried again at once.
    Conflict,
    /// Anything else, such as an error of the work's own. It may be tried again.
    Failure,
}

/// Why a call has no reply. Every caller that shared the flight gets the same error.
///
/// [`kind`](Self::kind) says what happened, [`effect`](Self::effect) what it means for the mutation, and
/// [`identity`](Self::identity) which request it is about. Cloning counts a reference.
///
/// The message has the request with its key [redacted](RequestIdentity::redacted), since it goes to logs.
/// [`identity`](Self::identity) has all of it.
///
/// The message ends with the cause's own message, for a log that prints nothing more. So
/// [`source`](std::error::Error::source) skips the cause, and returns what is behind it. The cause itself is in the
/// kind, and [`cause`](Self::cause) finds an error of the work's own.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::idempotency::{Effect, ErrorKind};
/// use oneflight::{Idempotency, MemoryStore, RequestIdentity, ResultExt, Scope};
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
/// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
/// let reply = idem
///     .try_run(id.clone(), |_| async {
///         let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
///         Err::<(), _>(refused).or_not_done()?; // Nothing was sent.
///         Ok("done".to_owned())
///     })
///     .await;
///
/// let error = reply.unwrap_err();
/// assert!(matches!(error.kind(), ErrorKind::NotDone(_)));
/// assert_eq!((error.effect(), error.identity()), (Effect::Nothing, &id));
/// let cause: &std::io::Error = error.cause().expect("that is what the work said");
/// assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    identity: RequestIdentity,
    kind: ErrorKind,
    effect: Effect,
    /// How long what the work left is given to settle.
    settles_in: Option<Duration>,
}

/// What happened to a call that has no reply.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The identity was used before with another payload: a client's mistake.
    ///
    /// The payloads are compared by their [fingerprints](crate::identity::Fingerprint). It is a conflict too if only
    /// one of the two has a fingerprint, since then it is not known whether they are the same. There are two ways to
    /// such a record:
    ///
    /// * It was made before a deploy which adds fingerprints.
    ///   [`missing_fingerprint`](crate::idempotency::IdempotencyBuilder::missing_fingerprint) offers a passage.
    /// * The fingerprint is taken from the bytes of the body, and the client now sends its key in another place. The
    ///   module `oneflight::http` says what to take a fingerprint of.
    Conflict,
    /// The request was being executed elsewhere, and still was when the wait ended.
    ///
    /// A request whose execution ended without telling what it did is in progress as well, until that has
    /// [settled](crate::idempotency::IdempotencyBuilder::settle). A lock of the store that others held for the whole
    /// wait is not this kind, but [`Store`](Self::Store) with [`StoreError::Busy`].
    InProgress {
        /// How long to wait before asking again is worthwhile.
        retry_after: Duration,
    },
    /// An earlier holder died, panicked, or did not know what it did, and the recovery policy does not say what to do.
    /// See [`Recovery`](crate::idempotency::Recovery).
    InDoubt {
        /// The attempt that ended so, counted from 1.
        attempt: u32,
    },
    /// The work says that it did nothing. The identity is new again, unless an earlier attempt is in doubt.
    NotDone(NotDone),
    /// The work says that it does not know what it did. The request is in doubt.
    ///
    /// The next call asks the [recovery policy](crate::idempotency::Recovery) about it, once what the work left has
    /// [settled](crate::idempotency::IdempotencyBuilder::settle).
    Unknown(Unknown),
    /// The work in a transaction failed, or its commit did. Everything is rolled back, and the identity is new again.
    ///
    /// Whether trying again helps depends on the [kind](RollbackKind): a constraint that was violated is violated the
    /// next time as well. Work that can never succeed should return
    /// [`Rollback::Declined`](crate::idempotency::Rollback::Declined), which is recorded and replayed.
    RolledBack {
        /// What the store makes of the error.
        kind: RollbackKind,
        /// What failed: the error that the work returned, or a [`StoreError`].
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The work panicked. In a transaction it was rolled back; otherwise the request is in doubt.
    Panicked(Panicked),
    /// The result is too large to be kept. In a transaction, the work was rolled back. Otherwise the work was *done*,
    /// and that fact is recorded: it is not done again, and every call gets this error.
    ///
    /// So does a call whose result was [erased](crate::store::Upkeep::erase) since. The limit is 0 then.
    ResultTooLarge {
        /// The size of the encoded result, in bytes.
        size: u64,
        /// The limit in force when the work was done, in bytes. 0 if the result was erased.
        limit: usize,
    },
    /// The result cannot be encoded, or cannot be decoded as the type that was asked for.
    Codec(CodecError),
    /// The work was done, but its lease had been lost and another holder took over. The result was not recorded, and
    /// the work may have been done twice. Shorten the work, or lengthen the lease.
    LeaseLost,
    /// The work was done, but that could not be recorded. The request is in doubt once the lease ends.
    Unrecorded(StoreError),
    /// A mutation of several steps stopped before its end. Its finished steps are recorded, and the next call, or a
    /// [completer](crate::idempotency::Completer), goes on behind them.
    Stopped(StepError),
    /// The store failed.
    ///
    /// The effect may be unknown although this call has not begun the work: it may have been granted a claim that is
    /// not given back so far. Until that is given back the request counts as in progress; if it cannot be given back,
    /// the request is in doubt then.
    Store(StoreError),
    /// The flight in this process did not begin: because of a limit, a circle, or a missing runtime.
    Flight(group::Error),
}

impl ErrorKind {
    /// Returns the error of this kind for a request.
    pub(super) fn of(self, identity: &RequestIdentity) -> Error {
        Error::new(identity.clone(), self)
    }

    /// What is known of the mutation by the kind alone.
    fn effect(&self) -> Effect {
        match self {
            Self::Conflict | Self::NotDone(_) | Self::RolledBack { .. } => Effect::Nothing,
            Self::LeaseLost | Self::Unrecorded(_) => Effect::Done,
            Self::Flight(group::Error::Aborted) => Effect::Unknown,
            Self::Flight(_) => Effect::Nothing,
            Self::InProgress { .. }
            | Self::InDoubt { .. }
            | Self::Unknown(_)
            | Self::Panicked(_)
            | Self::ResultTooLarge { .. }
            | Self::Codec(_)
            | Self::Stopped(_)
            | Self::Store(_) => Effect::Unknown,
        }
    }
}

impl Error {
    /// Makes the error of a request, with the effect that follows from its kind, or [`Effect::Unknown`] if the kind
    /// alone does not tell.
    ///
    /// A service makes one to test how it treats it.
    ///
    /// ```
    /// use oneflight::idempotency::{Effect, ErrorKind};
    /// use oneflight::{Error, RequestIdentity, Scope};
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
    /// assert_eq!(Error::new(id, ErrorKind::Conflict).effect(), Effect::Nothing);
    /// # Ok::<(), oneflight::identity::IdentityError>(())
    /// ```
    #[must_use]
    pub fn new(identity: RequestIdentity, kind: ErrorKind) -> Self {
        let effect = kind.effect();
        Self(Arc::new(Inner {
            identity,
            kind,
            effect,
            settles_in: None,
        }))
    }

    /// Returns the same error with another effect.
    #[must_use]
    pub fn with_effect(self, effect: Effect) -> Self {
        let inner = Arc::unwrap_or_clone(self.0);
        Self(Arc::new(Inner { effect, ..inner }))
    }

    /// Returns the same error, for work whose outcome settles within this time.
    pub(super) fn settling_in(self, settle: Duration) -> Self {
        let inner = Arc::unwrap_or_clone(self.0);
        Self(Arc::new(Inner {
            settles_in: Some(settle).filter(|settle| !settle.is_zero()),
            ..inner
        }))
    }

    /// Returns what happened.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the request that the error is about.
    #[must_use]
    pub fn identity(&self) -> &RequestIdentity {
        &self.0.identity
    }

    /// Returns what is known of the mutation.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Returns how long to wait before asking again is worthwhile, if that is known.
    ///
    /// It is known of a request in progress, and of one whose work does not know what it did and is to
    /// [settle](super::IdempotencyBuilder::settle).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind() {
            ErrorKind::InProgress { retry_after } => Some(*retry_after),
            _ => self.0.settles_in,
        }
    }

    /// Returns the first error of this type among the causes, for example one that the work returned.
    ///
    /// An `anyhow::Error` hides the type of the error in it when it becomes a `Box<dyn Error>`, and that error is not
    /// found. Add a `.context("…")`, below which the error keeps its type, or map it to an error of your own before.
    #[must_use]
    pub fn cause<E: StdError + 'static>(&self) -> Option<&E> {
        find(self.ends_with()?)
    }

    /// The cause that the message ends with.
    fn ends_with(&self) -> Option<&(dyn StdError + 'static)> {
        match self.kind() {
            ErrorKind::NotDone(reason) => Some(reason.reason()),
            ErrorKind::Unknown(reason) => Some(reason.reason()),
            ErrorKind::RolledBack { source, .. } => Some(&**source),
            ErrorKind::Codec(source) => Some(source),
            ErrorKind::Unrecorded(source) | ErrorKind::Store(source) => Some(source),
            ErrorKind::Flight(source) => Some(source),
            ErrorKind::Stopped(stopped) => stopped.cause(),
            _ => None,
        }
    }

    pub(super) fn store(id: &RequestIdentity, source: StoreError, effect: Effect) -> Self {
        ErrorKind::Store(source).of(id).with_effect(effect)
    }

    pub(super) fn codec(id: &RequestIdentity, source: CodecError, effect: Effect) -> Self {
        ErrorKind::Codec(source).of(id).with_effect(effect)
    }

    /// Whether the client has an answer all the same.
    fn is_answered(&self) -> bool {
        #[cfg(feature = "http")]
        return self.cause::<super::unfinished::AnswerGiven>().is_some();
        #[cfg(not(feature = "http"))]
        false
    }

    /// Logs the error.
    pub(super) fn tell(&self) {
        let gravity = match self.kind() {
            // Logged when it was given up.
            ErrorKind::Unrecorded(_) => return,
            // A client's doing, or an answer like any other.
            ErrorKind::Conflict | ErrorKind::InProgress { .. } | ErrorKind::Flight(_) => Gravity::Routine,
            ErrorKind::NotDone(_) | ErrorKind::RolledBack { .. } if self.is_answered() => Gravity::Routine,
            ErrorKind::InDoubt { .. } | ErrorKind::NotDone(_) | ErrorKind::Unknown(_) | ErrorKind::Store(_) => {
                Gravity::Trouble
            }
            ErrorKind::RolledBack { kind, .. } if *kind != RollbackKind::Violation => Gravity::Trouble,
            ErrorKind::Stopped(StepError::Stopping) => Gravity::Routine,
            ErrorKind::Stopped(
                StepError::Failed { .. }
                | StepError::RolledBack { .. }
                | StepError::Work { .. }
                | StepError::Behind { .. }
                | StepError::TimeLimit { .. }
                | StepError::LeaseLost
                | StepError::OtherWorkflow { .. }
                | StepError::Unrecorded { .. },
            ) => Gravity::Trouble,
            _ => Gravity::Fault,
        };
        telemetry::unanswered(gravity, self.identity(), &self.effect(), &WithoutRequest(self));
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", self.kind())
            .field("identity", self.identity())
            .field("effect", &self.effect())
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}: {}", self.identity().redacted(), WithoutRequest(self))
    }
}

/// Displays an error without its request.
#[derive(Debug)]
struct WithoutRequest<'a>(&'a Error);

impl fmt::Display for WithoutRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tell_what(f)?;
        match self.0.ends_with() {
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
        let effect = self.effect();
        match self.kind() {
            ErrorKind::Conflict => {
                f.write_str("its idempotency key was used before with another payload; use a new key for a new request")
            }
            ErrorKind::InProgress { retry_after } => {
                write!(
                    f,
                    "it is being executed elsewhere; repeat it with the same key in {retry_after:?}"
                )
            }
            ErrorKind::InDoubt { attempt } => write!(
                f,
                "attempt {attempt} ended without telling what it did, or waits for a person's decision; find out, then \
                 resolve the request as completed or to be run again, or, if it has recorded steps, have it go on \
                 (`resume_steps`)"
            ),
            ErrorKind::NotDone(_) => f.write_str("nothing was done; it may be tried again"),
            ErrorKind::Unknown(_) => f.write_str(
                "its work does not know what it did; it is in doubt until the recovery policy or an operator decides",
            ),
            ErrorKind::RolledBack { kind, .. } => f.write_str(match kind {
                RollbackKind::Violation => {
                    "the database rejected what its work asked for, and will again; it was rolled back; have the work \
                     decline such a request"
                }
                RollbackKind::Conflict => {
                    "its transaction lost to another one and was rolled back; it may be tried again"
                }
                RollbackKind::Failure => {
                    "its transaction failed and was rolled back; it may be tried again, but have the work decline what \
                     can never succeed"
                }
            }),
            ErrorKind::Panicked(panic) => {
                f.write_str(match effect {
                    Effect::Nothing => "its work panicked and was rolled back: ",
                    Effect::Done | Effect::Unknown => {
                        "its work panicked, and what it did before that has happened; with recorded steps it goes on by \
                         the next call, otherwise it is in doubt until the recovery policy or an operator decides: "
                    }
                })?;
                f.write_str(panic.message())
            }
            // What was erased has no limit that it could have exceeded.
            ErrorKind::ResultTooLarge { limit: 0, .. } => {
                f.write_str("its result is not kept: it was erased since, or none is to be kept; ")?;
                f.write_str(done_or_not(effect))
            }
            ErrorKind::ResultTooLarge { size, limit } => {
                write!(f, "its result has {size} bytes, over the limit of {limit}; ")?;
                f.write_str(done_or_not(effect))?;
                f.write_str("; return less, or raise the limit")
            }
            ErrorKind::Codec(_) => {
                f.write_str("its result cannot be encoded or decoded; ")?;
                f.write_str(done_or_not(effect))
            }
            ErrorKind::LeaseLost => f.write_str(
                "its work was done, but outlived its lease, and another holder took over: it may have been \
                 done twice; shorten the work, or lengthen the lease",
            ),
            ErrorKind::Unrecorded(_) => f.write_str(
                "its work was done, but that could not be recorded; it is in doubt when its lease ends, until the \
                     recovery policy or an operator decides",
            ),
            ErrorKind::Store(_) => {
                f.write_str("the store failed; ")?;
                f.write_str(done_or_not(effect))?;
                f.write_str("; the same key is safe to repeat")
            }
            ErrorKind::Flight(_) => f.write_str("it was not executed"),
            ErrorKind::Stopped(stopped) => {
                write!(
                    f,
                    "it stopped before its end, and its finished steps are recorded: {stopped}"
                )
            }
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
        self.ends_with()?.source()
    }
}
