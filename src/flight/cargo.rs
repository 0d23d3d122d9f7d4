//! What a flight carries, without its types: the work and, once the flight has landed, its result.
//!
//! This file does not know callers or the state word. It says what each access needs, and [`Caller`](super::Caller) provides
//! that.

use super::failure::{Ended, Failure, Landed};
use crate::identity::Fingerprint;
use std::task::{Context, Poll, RawWakerVTable};

/// The fingerprint of a call: a [`Fingerprint`], or `()` for a call without one, which then costs nothing.
pub(crate) trait Proof: Send + Sync + 'static {
    fn fingerprint(&self) -> Option<&Fingerprint>;
}

impl Proof for () {
    fn fingerprint(&self) -> Option<&Fingerprint> {
        None
    }
}

impl Proof for Fingerprint {
    fn fingerprint(&self) -> Option<&Fingerprint> {
        Some(self)
    }
}

/// [`Hold`](super::hold::Hold) without its types of proof and work.
///
/// # Safety
/// "Exclusive" below means that the code that calls the method holds `POLLING`, or that no other code can reach the flight
/// any more.
pub(crate) trait Cargo<K, T>: Send + Sync {
    fn fingerprint(&self) -> Option<&Fingerprint>;

    /// Returns the table of the waker whose data is a pointer to the flight that carries this.
    fn waker(&self) -> &'static RawWakerVTable;

    /// Polls the work, and drops it when it is ready. Its value may be large, so it goes into the slot and not through the
    /// stack of the poll. A panic of the poll or of the destructor is a failure.
    ///
    /// # Safety
    /// The slot holds the work, and access is exclusive. After `Ready(Ok(()))` the slot holds the result; after `Ready(Err(_))`
    /// it is empty.
    unsafe fn poll(&self, cx: &mut Context<'_>) -> Poll<Ended>;

    /// Drops the work unfinished. A panic in its destructor goes no further than the panic hook.
    ///
    /// # Safety
    /// The slot holds the work, and access is exclusive. Afterwards the slot is empty.
    unsafe fn drop_work(&self);

    /// Puts a failure into the slot.
    ///
    /// # Safety
    /// The slot is empty, and access is exclusive. Afterwards it holds the result.
    unsafe fn fail(&self, failure: Failure);

    /// Clones the result. If that panics, the panic is the result.
    ///
    /// # Safety
    /// The slot holds the result, and keeps it until this returns.
    unsafe fn copy(&self) -> Landed<T>;

    /// Takes the result out.
    ///
    /// # Safety
    /// The slot holds the result, and access is exclusive. Afterwards the slot is empty.
    unsafe fn take(&self) -> Landed<T>;
}
