//! Why a call has no value.

use crate::flight::Panicked;
use std::fmt;
use std::sync::Arc;

/// Why a call of a [`Group`](super::Group) has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The work panicked. Every caller of the flight gets this, and the key is free again. What the work did before it
    /// panicked stays done.
    ///
    /// If the result's `Clone` panics, only the caller whose copy was to be made gets this.
    Panicked(Panicked),
    /// The call would have waited for itself: it was polled inside the work of a flight that the call's flight waits for,
    /// directly or through other flights. If this was the call's first poll, nothing was run or joined. If the call was begun
    /// elsewhere and then awaited in such work, it has left its flight, as if dropped.
    ///
    /// A call counts as awaited by the work that polled it last. A wait that passes through a spawned task, or through
    /// anything else that is not a call of a group, is not seen: such a circle hangs. A call that the work gives away, for
    /// example to a task, counts as the work's until it is polled there or dropped. A call for the work's key in between may
    /// get this error although there is no circle.
    Reentrant,
    /// A limit of the group is reached. Nothing was run or joined.
    Overloaded(Limit),
    /// The group is closed and begins no new flights. Flights that are under way can still be joined.
    Closed,
    /// The key is in flight with another fingerprint, or only one of the two calls carries one: the same key stands for
    /// two different requests. Nothing was run or joined.
    Conflict,
    /// The flight was aborted. Its work was dropped where it stood. What it did before that stays done.
    Aborted,
    /// [`Drive::Spawned`](crate::Drive::Spawned) was asked for outside a runtime, and the group has none of its own.
    /// Nothing was run.
    NoRuntime,
    /// The runtime has no timers, which are needed to renew leases and to end waits. Nothing was run. Only `Idempotency` returns
    /// this, since a [`Group`](super::Group) needs no timers.
    NoTimers,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(panic) => panic.fmt(f),
            Self::Reentrant => f.write_str(
                "the work waits for itself: it called its group for a key whose flight waits, directly or through \
                 others, for this very work; give the inner call another key or another group",
            ),
            Self::Overloaded(limit) => limit.fmt(f),
            Self::Closed => f.write_str("the group is closed and begins no new flights"),
            Self::Conflict => f.write_str(
                "the key is in flight for a request with another fingerprint; use a new key for a different request",
            ),
            Self::Aborted => f.write_str("the flight was aborted; its work was dropped where it stood"),
            Self::NoRuntime => f.write_str(
                "there is no runtime to spawn the work on; call from inside one, or give the group a handle",
            ),
            Self::NoTimers => f.write_str(
                "the runtime has no timers; call `enable_time` or `enable_all` on the builder of the runtime",
            ),
        }
    }
}

impl std::error::Error for Error {}

/// The limit of a group that a call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// The number of flights that the group may have.
    Flights(usize),
    /// The number of callers that one flight may have.
    Callers(u32),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flights(limit) => write!(f, "the group has {limit} flights, its limit; try again later"),
            Self::Callers(limit) => write!(f, "the flight has {limit} callers, its limit; try again later"),
        }
    }
}

/// Why a call of [`Group::try_run`](super::Group::try_run) has no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum TryError<E> {
    /// The work failed. Every caller of the flight gets the same error.
    Work(Arc<E>),
    /// The flight has no result of the work.
    Flight(Error),
}

impl<E> Clone for TryError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Work(error) => Self::Work(Arc::clone(error)),
            Self::Flight(error) => Self::Flight(error.clone()),
        }
    }
}

impl<E: fmt::Display> fmt::Display for TryError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => error.fmt(f),
            Self::Flight(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for TryError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Work(error) => error.source(),
            Self::Flight(error) => error.source(),
        }
    }
}

impl<E> From<Error> for TryError<E> {
    fn from(error: Error) -> Self {
        Self::Flight(error)
    }
}
