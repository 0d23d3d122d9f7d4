//! A claim's life outside of a transaction, from the first question to its end.
//!
//! ```text
//!               ┌──not granted: wait, or ask the policy, and again──┐
//!               ▼                                                   │
//! Acquire ──▶ Asked ────────────────────────────────────────────────┘
//!               │ granted, and its lease runs
//!               ▼
//!            Granted ──begin: the work does──▶ Held ──complete────────▶ recorded
//!               │                               ├────release────────▶ new again
//!               │                               ├────leave_in_doubt─▶ in doubt, once it has settled
//!               │ dropped                       └────dropped────────▶ in doubt, when its lease ends
//!               ▼
//!           given back, by a task; so is what may have been granted to an `Asked`
//! ```
//!
//! Each state is a value, and each way on consumes it. So work runs only under a claim that is [`Held`](held::Held). A
//! claim that is not ended by a method ends by being dropped: before the work it is given back, after that it is left
//! to its lease.
//!
//! [`Acquire`] serves transactions as well, whose claims are the store's own affair: it says how to ask, and what
//! follows from a claim that is [denied](Acquire::follow).

mod acquire;
mod asked;
mod case;
mod denied;
mod end;
mod granted;
mod held;
mod keeper;
mod lease;
mod standing;

pub(super) use acquire::{Acquire, Acquired};
pub(super) use case::Case;
pub(super) use denied::told;
pub(super) use end::record_known;
pub(super) use standing::View;
