//! Server Actions on the wire: requests and answers of both versions of Next, before a backend that answers as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod answers;
mod intents;
mod wire;
