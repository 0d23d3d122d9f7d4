//! What a flight carries, without its types: the work and, once it has landed, its result.
//!
//! This file knows nothing of callers or of the state word. It says what each access needs, and
//! [`Caller`](super::Caller) sees to it.

use super::failure::{Ended, Failure, Landed};
use crate::identity::Fingerprint;
use std::task::{Context, Poll, RawWakerVTable};

/// The fingerprint that a call carries, if it does: `()` for the many that don't, which then costs nothing.
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
/// "To himself" below means that the caller holds `POLLING`, or is the only one left who can reach the flight.
pub(crate) trait Cargo<K, T>: Send + Sync {
    fn fingerprint(&self) -> Option<&Fingerprint>;

    /// How to make a waker of a pointer to the flight that carries this.
    fn waker(&self) -> &'static RawWakerVTable;

    /// Polls the work, and drops it when it is ready. Its value goes into the slot and not through the stack of those who
    /// poll, since it may be large. A panic in either is a failure.
    ///
    /// # Safety
    /// The slot holds the work; the caller has it to himself. After `Ready(Ok(()))` the slot holds the result, after another
    /// `Ready` it is empty.
    unsafe fn poll(&self, cx: &mut Context<'_>) -> Poll<Ended>;

    /// Drops the work unfinished. A panic in its destructor goes no further than the panic hook.
    ///
    /// # Safety
    /// The slot holds the work; the caller has it to himself. Afterwards the slot is empty.
    unsafe fn drop_work(&self);

    /// Puts a failure in.
    ///
    /// # Safety
    /// The slot is empty; the caller has it to himself. Afterwards it holds the result.
    unsafe fn fail(&self, failure: Failure);

    /// Clones the result. A panic in that is the result.
    ///
    /// # Safety
    /// The slot holds the result and keeps it meanwhile.
    unsafe fn copy(&self) -> Landed<T>;

    /// # Safety
    /// The slot holds the result; the caller has it to himself. Afterwards the slot is empty.
    unsafe fn take(&self) -> Landed<T>;
}
