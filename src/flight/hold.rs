//! The cargo with its types: one place for the work and then its result.

use super::cargo::{Cargo, Proof};
use super::failure::{Ended, Failure, Landed, Panicked};
use super::waker;
use crate::identity::Fingerprint;
use crate::sync::UnsafeCell;
use crate::unwind::quietly;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, RawWakerVTable};

/// One place for work and result: the work is dropped before the result is put in, so they never live together.
union Slot<W, T> {
    empty: (),
    work: ManuallyDrop<W>,
    landed: ManuallyDrop<Landed<T>>,
}

/// The typed end of a flight. Dropping it drops no work and no result: the slot is emptied before the flight is freed.
pub(crate) struct Hold<P, W, T> {
    proof: P,
    slot: UnsafeCell<Slot<W, T>>,
}

// SAFETY: `slot` is reached only through the unsafe methods below. Their access is exclusive (the work is `Send`: it is polled
// by one thread after another) or, for `copy`, shared, of a result that is `Sync`.
unsafe impl<P: Sync, W: Send, T: Send + Sync> Sync for Hold<P, W, T> {}

impl<P, W, T> Hold<P, W, T> {
    pub(super) fn new(proof: P) -> Self {
        Self {
            proof,
            slot: UnsafeCell::new(Slot { empty: () }),
        }
    }

    /// Puts the work in.
    ///
    /// # Safety
    /// The slot is empty, and access is exclusive.
    pub(super) unsafe fn load(&self, work: W) {
        // SAFETY: exclusive by contract; nothing is overwritten that would need its drop.
        self.slot.with_mut(|slot| unsafe {
            (*slot).work = ManuallyDrop::new(work);
        });
    }
}

impl<K, T, P, W> Cargo<K, T> for Hold<P, W, T>
where
    K: Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    P: Proof,
    W: Future<Output = T> + Send + 'static,
{
    fn fingerprint(&self) -> Option<&Fingerprint> {
        self.proof.fingerprint()
    }

    fn waker(&self) -> &'static RawWakerVTable {
        waker::vtable::<K, T, Self>()
    }

    unsafe fn poll(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.slot.with_mut(|slot| {
            // SAFETY: the slot holds the work and is ours alone. A flight never moves, and the work leaves it only by
            // being dropped in place, so pinning it is sound.
            let work = unsafe { Pin::new_unchecked(&mut *(*slot).work) };
            // The place of the value while the work has the slot. It is moved once, below: without optimization each move is a
            // copy of its own.
            let mut polled = Poll::Pending;
            let unwound = catch_unwind(AssertUnwindSafe(|| polled = work.poll(cx)));
            let panicked = match unwound {
                Ok(()) if polled.is_pending() => return Poll::Pending,
                Ok(()) => None,
                Err(panic) => Some(Panicked::from_payload(panic)),
            };
            // SAFETY: the work was live and is not touched again.
            let dropped = catch_unwind(AssertUnwindSafe(|| unsafe {
                ManuallyDrop::drop(&mut (*slot).work);
            }));
            Poll::Ready(match (dropped, panicked) {
                (Ok(()), None) => {
                    // SAFETY: the slot is ours alone, and empty by now.
                    unsafe { fill(slot, polled) };
                    Ok(())
                }
                (Ok(()), Some(panicked)) => Err(Failure::Panicked(panicked)),
                // The first panic is the one that callers are told.
                (Err(second), Some(first)) => {
                    quietly(|| drop(second));
                    Err(Failure::Panicked(first))
                }
                (Err(panic), None) => {
                    quietly(|| polled = Poll::Pending);
                    Err(Failure::Panicked(Panicked::from_payload(panic)))
                }
            })
        })
    }

    unsafe fn drop_work(&self) {
        self.slot.with_mut(|slot| {
            // SAFETY: the work is live, ours alone, and not touched again.
            quietly(|| unsafe { ManuallyDrop::drop(&mut (*slot).work) });
        });
    }

    unsafe fn fail(&self, failure: Failure) {
        // SAFETY: exclusive by contract; the slot is empty, so nothing is overwritten that would need its drop.
        self.slot.with_mut(|slot| unsafe {
            (*slot).landed = ManuallyDrop::new(Err(failure));
        });
    }

    unsafe fn copy(&self) -> Landed<T> {
        let copied = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the result is there by contract, and is not written while it is shared.
            self.slot.with(|slot| unsafe { Landed::clone(&(*slot).landed) })
        }));
        copied.unwrap_or_else(|panic| Err(Failure::Panicked(Panicked::from_payload(panic))))
    }

    unsafe fn take(&self) -> Landed<T> {
        // SAFETY: the result is there, ours alone, and counts as moved out from here on.
        self.slot
            .with_mut(|slot| unsafe { ManuallyDrop::take(&mut (*slot).landed) })
    }
}

/// Puts the value of work that is ready into the slot.
///
/// # Safety
/// The slot is empty, and access is exclusive.
unsafe fn fill<W, T>(slot: *mut Slot<W, T>, polled: Poll<T>) {
    if let Poll::Ready(value) = polled {
        // SAFETY: by contract; nothing is overwritten that would need its drop.
        unsafe { (*slot).landed = ManuallyDrop::new(Ok(value)) };
    }
}
