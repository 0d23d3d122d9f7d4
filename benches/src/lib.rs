//! What the benchmarks of `oneflight` share: the peers, the work and the callers that they are measured with, and the
//! rounds in which they are compared.

pub mod book;
pub mod cases;
pub mod contest;
pub mod crowd;
pub mod gate;
pub mod key;
pub mod peers;
pub mod semantics;
pub mod signal;
