//! One flight: an execution of work, shared by all callers that ask for its key while it is in flight.
//!
//! A flight is one allocation: its counters, the list of waiting callers, the key, and one place for the work and then its
//! result. This module knows callers and wakers. It does not know the map that lists the flight: what it needs of its owner
//! it asks through [`Home`]. All `unsafe` of the crate is here, behind the safe [`Caller`] and [`FlightRef`].
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
//! * `POLLING` is the right to the slot. It is taken by compare-exchange and given up at the end of a poll. So its holder is
//!   a caller that *is being polled*, never one that merely waits: an idle driver holds up no other caller.
//! * While the leader is alone, the work is polled with the leader's own waker, and the flight costs what a plain future
//!   costs. The first follower sets `SHARED` and `REPOLL`. From then on the work gets the flight's own waker, which sets
//!   `WOKEN` and wakes the driver and a standby. The first of them to be polled takes `POLLING`.
//! * A wake-up is never lost. `WOKEN` and `REPOLL` are cleared only together with taking `POLLING`, before the poll. The
//!   holder of `POLLING` that gives it up and finds one of them wakes the next two callers, and so does every caller that
//!   leaves and finds one. A caller that has registered looks at the word once more: either the waker saw the caller in the
//!   list, or the caller sees the waker's mark.
//! * A joining caller counts itself under the lock that guards the entry. It does so in a number of its own, which takes no
//!   read-modify-write. A leaving caller that seems to be the last makes sure under that lock ([`Home::while_nobody_joins`]).
//! * When the last caller leaves, its place passes to a task that the home spawns (`TASK`), or the work is dropped
//!   (`CANCELLED`).
//! * A caller that would poll the work too deep inside other polls stays in the flight and leaves the poll to another stack.
//!   A `STEADY` task does it if the runtime allows one. Otherwise the outermost poll on the caller's thread does it, as it
//!   ends (`frame.rs`).
//!
//! # Work that is left to a task
//!
//! Abandoned work, and work that is spawned from the beginning, is polled by a task: the flight's task. It stands at the
//! front of the list. Whether callers may rely on it depends on its runtime:
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
//! * A runtime with threads of its own polls what is woken. Its task is `STEADY`: only the task polls the work, and only
//!   the task is woken for it.
//! * Any other runtime runs its tasks only while a thread is inside its `block_on`, which may be never. So a standby is
//!   woken with the task, as it is with a driver. A caller that is polled, and finds the work called for while nothing polls
//!   it, wakes itself and notes that it has waited (`outwaited`, in its node; finding nothing to do clears the note). If the
//!   call still stands as the caller is polled again, the caller takes `POLLING` like a driver. On a runtime that is driven,
//!   the task is ahead of the caller in the queue, so the work stays with the task. A step costs two wake-ups, and one more
//!   if the task is late.
//! * Only the right to poll is taken from the task. If it comes after all, it finds the right taken, or nothing to do, and
//!   goes to the front again.
//! * A drain of the group stands by as well ([`Helper`]), without being a caller.
//!
//! # What frees a flight
//!
//! `refs` counts the map's entry, each waker, each lookup, and *all callers together* as one. The last caller to leave after
//! `DONE` takes or drops the result and gives up the callers' common reference. So the slot is empty when the memory goes,
//! and a leader that no follower joined frees the flight without one atomic change.

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
mod rounds;
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
pub(crate) use self::reference::{FlightRef, Seat};
pub(crate) use self::rounds::Waking;
pub(crate) use self::state::MAX_CALLERS;

pub use self::failure::Panicked;
pub(crate) use self::policy::Policy;
pub use self::policy::{Drive, OnAbandon};
