//! A target that is an HTTP service: [`HttpTarget`].

mod guard;
mod sign;
mod target;
mod verdict;

pub use target::{HttpTarget, HttpTargetError};
pub use verdict::{Answered, Verdict};
