//! One flight: an execution of work, shared by all who ask for its key meanwhile.
//!
//! A flight is one allocation: its counters, the list of those who wait, the key, and one place for the work and then
//! its result. This module knows of callers and wakers, not of the map that the flight is listed in; what it needs of
//! its owner it asks through [`Home`]. All `unsafe` of the crate is here, behind the safe [`Caller`] and [`FlightRef`].
//!
//! # States
//!
//! ```text
//!              lead                      pending                    woken, polled by any caller
//!   (absent) ───────▶ POLLING (leader) ───────────▶ idle ─────────────────────────────▶ POLLING (driver)
//!                        │                           │ ▲ pending                           │  │
//!                        │ ready, panic              │ └───────────────────────────────────┘  │ ready, panic
//!                        ▼                           │ abort, or all callers left (cancel)    ▼
//!                   work dropped ◀───────────────────┴──────────────────────────────▶ work dropped
//!                        │
//!                        ▼  result into the slot ─▶ entry leaves the map ─▶ DONE ─▶ callers woken, in rounds
//! ```
//!
//! * `POLLING` is the right to the slot. It is taken by compare-exchange and lost at the end of a poll, so it is held
//!   by whoever is *being polled*, never by a caller who merely waits: an idle driver holds nobody up.
//! * While the leader is alone, the work is polled with the leader's own waker: the flight costs what a plain future
//!   costs. The first follower sets `SHARED` and `REPOLL`. From then on the work gets the flight's own waker, which sets
//!   `WOKEN` and wakes the driver and a standby; whichever of them is polled first takes `POLLING`.
//! * A wake-up is never lost. `WOKEN` and `REPOLL` are cleared only by who takes `POLLING` (before the poll). Whoever gives `POLLING`
//!   up and finds one of them, and every caller who leaves and finds one, wakes the next two. A caller who has registered
//!   looks at the word once more: either the waker saw him in the list, or he sees the waker's mark.
//! * Who joins counts himself under the lock that guards the entry, in a number of his own, and so without a
//!   read-modify-write. Who leaves and seems to be the last makes sure under that lock ([`Home::while_nobody_joins`]).
//! * When the last caller leaves, his place passes to a task of ours (`TASK`), or the work is dropped (`CANCELLED`).
//! * A caller that would poll the work too deep inside other polls stays, and leaves it to a poll on another stack: by a task of
//!   ours where that is `STEADY`, and otherwise by the outermost poll on its thread, as that ends (`frame.rs`).
//!
//! # Work that is left to a task
//!
//! Abandoned work, and work that is spawned from the beginning, is polled by a task of ours. It stands at the front of the
//! list. Whether callers may rely on it depends on its runtime:
//!
//! ```text
//!                       WOKEN: task and standby woken         standby polled, the task has not come
//!   idle, with a task ────────────────────────────────▶ called ────────────────────────────────────▶ late
//!     ▲        ▲                                           │         (it wakes itself: one more chance)  │
//!     │        └──────────── task polled: POLLING ◀────────┴───────────────────────────────◀─────────────┤
//!     │                                                                                                  │
//!     └───────────────────── standby polled again: POLLING, inside the task's runtime ◀──────────────────┘
//! ```
//!
//! * A runtime with threads of its own polls what is woken. Its task is `STEADY`: it alone polls the work, and it alone is
//!   woken for it.
//! * Any other runtime runs its tasks only while a thread is inside its `block_on`, which may be never. So a standby is
//!   woken with the task, as with a driver. A caller who is polled and finds the work called for, and nobody polling it,
//!   wakes itself and notes that it has waited (`outwaited`, in its node; finding nothing to do clears it). If the
//!   call still stands as it is polled again, it takes `POLLING` like a driver. On a runtime that is driven the task is
//!   ahead of it in the queue, so its work stays with it. A step costs two wake-ups, and one more if the task is late.
//! * Nobody takes anything from the task but the right to poll: if it comes after all, it finds the right taken, or
//!   nothing to do, and goes to the front again.
//! * A drain of the group stands by as well ([`Helper`]), without being a caller.
//!
//! # Who frees
//!
//! `refs` counts the map's entry, each waker, whoever looks the flight up, and *all callers together* as one. The last
//! caller to leave after `DONE` takes or drops the result and gives their common reference up. So the slot is empty
//! when the memory goes, and a leader whom nobody joined frees the flight without one atomic change.

mod allocation;
mod caller;
mod cargo;
mod ending;
mod event;
mod failure;
mod frame;
mod hash;
mod helper;
mod hold;
mod home;
mod list;
mod nest;
mod policy;
mod reference;
mod state;
mod waker;

pub(crate) use self::caller::{Caller, Takeoff};
pub(crate) use self::cargo::Proof;
pub(crate) use self::event::Event;
pub(crate) use self::failure::{Failure, Landed};
pub(crate) use self::frame::Anchor;
pub(crate) use self::hash::KeyHash;
pub(crate) use self::helper::Helper;
pub(crate) use self::home::Home;
pub(crate) use self::reference::{FlightRef, Seat, Waking};
pub(crate) use self::state::MAX_CALLERS;

pub use self::failure::Panicked;
pub use self::policy::{Drive, OnAbandon};
