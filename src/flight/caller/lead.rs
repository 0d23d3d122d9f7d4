//! How a flight begins.

use super::berth::Caller;
use super::land::Polled;
use crate::flight::allocation::Flight;
use crate::flight::cargo::Proof;
use crate::flight::ending::PollRight;
use crate::flight::failure::{Failure, Landed, Panicked};
use crate::flight::frame::{Frame, runtime_of_poll};
use crate::flight::hash::{KeyHash, Packed};
use crate::flight::hold::Hold;
use crate::flight::home::Home;
use crate::flight::list::{List, Waiting};
use crate::flight::policy::{Drive, OnAbandon, Policy};
use crate::flight::reference::{FlightRef, Lent, Seat};
use crate::flight::state::{CANCEL_ON_ABANDON, JOINED, POLLING, PROVEN, REPOLL, State, TASK, task_on};
use crate::sync::{AtomicU32, Mutex};
use crate::telemetry::FlightSpan;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

/// A flight that its leader has made and not yet given its work. The leader holds `POLLING`.
#[must_use = "the flight waits for its work"]
pub(crate) struct Takeoff<K, T, P, W> {
    flight: NonNull<Flight<K, T, Hold<P, W, T>>>,
    drive: Drive,
}

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    /// Makes a flight and becomes its leader. Returns the map's reference, and the flight to be given its work.
    pub(crate) fn lead<P, W>(
        self: Pin<&Self>,
        key: K,
        hash: KeyHash,
        proof: P,
        policy: Policy,
    ) -> (FlightRef<K, T>, Takeoff<K, T, P, W>)
    where
        K: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
        P: Proof,
        W: Future<Output = T> + Send + 'static,
    {
        let Policy { on_abandon, drive } = policy;
        let abandon = match on_abandon {
            OnAbandon::Finish => 0,
            OnAbandon::Cancel => CANCEL_ON_ABANDON,
        };
        let proven = proof.fingerprint().map_or(0, |_| PROVEN);
        let flags = abandon | proven | POLLING;
        let runtime = runtime_of_poll();
        let (state, waiting) = match drive {
            // SAFETY: the node is pinned and not linked elsewhere. It is unlinked before it is freed (`leave`, `take`), or
            // freed after a flight that no other thread could reach any more (`land`).
            Drive::InPlace => (State::new(flags, 1, runtime), unsafe {
                List::of_leader(&self.get_ref().node)
            }),
            Drive::Spawned => (State::new(flags | JOINED | TASK, 2, runtime), List::empty()),
        };
        let flight = NonNull::from(Box::leak(Box::new(Flight {
            // The map's reference, and the callers' common one.
            refs: AtomicU32::new(2),
            state,
            lock: Mutex::new(()),
            hash: Packed::new(hash),
            waiting: Waiting::new(waiting),
            key,
            span: FlightSpan::new(),
            _result: PhantomData,
            cargo: Hold::new(proof),
        })));
        self.node.looked.set(false);
        self.flight.set(Some(flight));
        (FlightRef(flight), Takeoff { flight, drive })
    }

    /// Makes the work and begins to run it. A panic in `make` is a panic of the work.
    #[inline]
    pub(crate) fn take_off<P, W>(
        self: Pin<&Self>,
        takeoff: Takeoff<K, T, P, W>,
        make: impl FnOnce() -> W,
        cx: &mut Context<'_>,
    ) -> Poll<Landed<T>>
    where
        K: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
        P: Proof,
        W: Future<Output = T> + Send + 'static,
    {
        let flight: NonNull<Flight<K, T>> = takeoff.flight;
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        lent.flight().span.open();
        // SAFETY: as above. It is left before the flight can end: here, or by `drive`.
        let mut frame = unsafe { Frame::enter(takeoff.flight) };
        let made = catch_unwind(AssertUnwindSafe(|| lent.flight().span.enter(make)));
        match made {
            // SAFETY: the leader has held `POLLING` since it made the flight; the slot is still empty.
            Ok(work) => unsafe { takeoff.flight.as_ref().cargo.load(work) },
            Err(panic) => {
                frame.leave();
                let failure = Failure::Panicked(Panicked::from_payload(panic));
                if let Drive::Spawned = takeoff.drive {
                    self.dismiss_task(flight);
                }
                // SAFETY: as above.
                return Poll::Ready(unsafe { self.land(takeoff.flight, flight, Err(failure), Polled::Not) });
            }
        }
        let state = &lent.flight().state;
        match takeoff.drive {
            Drive::InPlace if frame.is_too_deep() => {
                frame.leave();
                state.set(JOINED);
                drop(PollRight {
                    home: &self.home,
                    flight: &lent,
                });
                self.poll(cx)
            }
            Drive::InPlace => {
                let mut now = state.load();
                if now.has(REPOLL) {
                    // A caller has joined already: this is the poll that it asks for.
                    now = state.clear(REPOLL);
                }
                // SAFETY: `POLLING` is ours, and the slot holds the work.
                unsafe { self.drive(takeoff.flight, flight, &mut frame, now, cx) }
            }
            Drive::Spawned => {
                frame.leave();
                let right = PollRight {
                    home: &self.home,
                    flight: &lent,
                };
                match self.home.runtime() {
                    Some(runtime) => {
                        state.set(task_on(&runtime));
                        self.home.attend(&lent, runtime, Seat { flight, late: false }, true);
                    }
                    // There is no runtime any more, so the callers drive.
                    None => self.dismiss_task(flight),
                }
                drop(right);
                self.poll(cx)
            }
        }
    }

    /// Gives up the place of a task that was never spawned.
    fn dismiss_task(&self, flight: NonNull<Flight<K, T>>) {
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        lent.flight().state.clear(TASK);
        lent.flight().state.leave();
    }
}
