//! Why a call has no value.

use crate::flight::Panicked;
use std::fmt;
use std::sync::Arc;

/// Why a call of a [`Group`](super::Group) has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The work panicked. Everyone who shared the flight gets this, and the key is free again. What the work did before
    /// it panicked has happened.
    ///
    /// A caller whose own copy of the result could not be made, because its `Clone` panicked, gets this alone.
    Panicked(Panicked),
    /// The call would have waited for itself: it was polled inside the work of a flight that, directly or through other
    /// flights, waits for this one. At its first poll nothing was run or joined. A call that was begun elsewhere and then
    /// awaited in such work has left its flight, as if dropped.
    ///
    /// A call counts as awaited by the work that polled it last. Not seen is what waits through a spawned task, or through
    /// anything else that is not a call of a group: such a circle hangs. A call that the work gives away, to a task for
    /// example, counts as the work's until it is polled there or dropped: what asks for the work's key in between may be
    /// told of a circle that is none.
    Reentrant,
    /// A limit of the group is reached; nothing was run or joined.
    Overloaded(Limit),
    /// The group is closed and begins no new flights. Flights that are under way can still be joined.
    Closed,
    /// The key is in flight with another fingerprint, or only one of the two calls carries one: the same key stands for
    /// two different requests. Nothing was run or joined.
    Conflict,
    /// The flight was aborted. Its work was dropped where it stood; what it did before that has happened.
    Aborted,
    /// [`Drive::Spawned`](crate::Drive::Spawned) was asked for outside a runtime, and the group has none of its own.
    /// Nothing was run.
    NoRuntime,
    /// The runtime has no timers, by which leases are renewed and waits end. Nothing was run. A [`Group`](super::Group)
    /// needs none: only `Idempotency` answers this.
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

/// Which limit of a group a call ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// As many flights as the group may have.
    Flights(usize),
    /// As many callers as one flight may have.
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
    /// The work failed. Everyone who shared the flight gets the same error.
    Work(Arc<E>),
    /// The work did not end.
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
