//! The flight's own waker: a pointer to the flight, and one reference to it.
//!
//! It is in use once a flight is shared. It marks the flight and wakes the driver and a standby, so that the work goes on
//! even if one of them is not polled for now. A waker that outlives its flight keeps the flight's memory and key, never the
//! work or the result.

use super::allocation::Flight;
use super::cargo::Cargo;
use super::nest::nest;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// Returns the table of wakers whose data is a pointer to a flight of this type.
pub(super) fn vtable<K, T, C>() -> &'static RawWakerVTable
where
    K: Send + Sync + 'static,
    T: Send + Sync + 'static,
    C: Cargo<K, T> + 'static,
{
    &Table::<K, T, C>::TABLE
}

/// Returns the waker of `flight`, lent: it owns no reference.
///
/// # Safety
/// The flight outlives what is returned (its clones own references of their own).
pub(super) unsafe fn lend<K, T>(flight: NonNull<Flight<K, T>>) -> ManuallyDrop<Waker> {
    // SAFETY: alive by contract.
    let table = unsafe { flight.as_ref() }.cargo.waker();
    // SAFETY: the table belongs to the type that the pointer had before it was unsized.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(flight.as_ptr().cast_const().cast(), table)) })
}

struct Table<K, T, C>(PhantomData<(K, T, C)>);

impl<K, T, C> Table<K, T, C>
where
    K: Send + Sync + 'static,
    T: Send + Sync + 'static,
    C: Cargo<K, T> + 'static,
{
    const TABLE: RawWakerVTable = RawWakerVTable::new(Self::clone, Self::wake, Self::wake_by_ref, Self::drop);

    fn flight(pointer: *const ()) -> NonNull<Flight<K, T, C>> {
        // SAFETY: never null, since `lend` made it of a `NonNull`.
        unsafe { NonNull::new_unchecked(pointer.cast_mut().cast()) }
    }

    unsafe fn clone(pointer: *const ()) -> RawWaker {
        // SAFETY: the waker that is cloned keeps the flight alive.
        unsafe { Self::flight(pointer).as_ref() }.retain();
        RawWaker::new(pointer, &Self::TABLE)
    }

    unsafe fn wake(pointer: *const ()) {
        // SAFETY: as below, and this waker's reference goes with it.
        unsafe {
            Self::wake_by_ref(pointer);
            Self::drop(pointer);
        }
    }

    unsafe fn wake_by_ref(pointer: *const ()) {
        // SAFETY: this waker keeps the flight alive.
        let flight = unsafe { Self::flight(pointer).as_ref() };
        nest(flight, Flight::wake, |_| {
            // SAFETY: as above, and this is a waker of its own.
            let waker = unsafe { Waker::from_raw(Self::clone(pointer)) };
            Box::new(move || waker.wake())
        });
    }

    unsafe fn drop(pointer: *const ()) {
        let flight: NonNull<Flight<K, T>> = Self::flight(pointer);
        // SAFETY: the reference was this waker's.
        unsafe { Flight::release(flight) };
    }
}
