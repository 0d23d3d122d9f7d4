//! The operator's desk, as it is typed: each command over a store that the library has filled, in both forms, with its exit codes, and
//! with the question that stands before each change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../../tests/common/redis.rs"]
mod redis;

mod consent;
mod doubt;
mod manual;
mod migrations;
mod readme;

mod records;
mod resolve;
mod servers;
mod steps;
mod stores;
mod streams;
mod support;
