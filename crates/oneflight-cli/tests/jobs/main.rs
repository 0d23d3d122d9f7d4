//! The command's part for jobs and messages, as a shell sees it: `exec`, `outbox`, `bench` and `doctor` of the program that was built,
//! over real stores.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/pgbouncer.rs"]
mod pgbouncer;
#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../../tests/common/redis.rs"]
mod redis;

mod bench;
mod desk;
mod doctor;
mod exec;
mod exec_ends;
mod exec_settled;
mod outbox;
mod topics;
