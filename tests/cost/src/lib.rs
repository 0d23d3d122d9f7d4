//! What a call costs, in exact figures: `bin/cost` counts them, and compares them with those that are kept.
//!
//! Instructions are counted under callgrind, by `benches/instructions.rs`; everything else by the program, `main.rs`.

pub mod call;
#[path = "../../common/mod.rs"]
mod common;
pub mod figures;
pub mod scene;
pub mod wakes;

pub use self::common::Tally;
