//! A model of the claim protocol, for an exhaustive search with `stateright`: several processes, one request identity,
//! one store, and whatever may go wrong between them. Run it with `bin/model`.
//!
//! The decision about a claim is not modelled: the model calls [`oneflight::store::decide`]. All else is written down
//! once more, in the words of the code and in files with the names of its files, as steps that happen as a whole:
//!
//! ```text
//! caller ──send──▶ request under way ──deliver──▶ one atomic step of the store ──▶ answer under way ──receive──▶ caller
//!                   └─lost: the caller is told that the store is unavailable; it may be delivered later, or never
//! ```
//!
//! Between any two steps, any other caller may take any number of them, and time may pass: a process that is paused is
//! one that takes no steps. Time is kept as what is left of each lease and each retention, so the model bounds neither
//! how long anything takes nor how often; tokens are renumbered in their order, so it does not bound how many are
//! drawn. What it bounds is which callers take part, and how many faults happen: see [`scenario`].

mod acquire;
pub mod bug;
mod caller;
mod end;
mod execute;
mod lease;
mod ledger;
pub mod properties;
mod quiet;
mod resolve;
pub mod scenario;
mod server;
mod session;
mod settle;
mod transaction;
mod world;

pub use ledger::{Sight, Sightings};
pub use world::{Action, Claims, World};
