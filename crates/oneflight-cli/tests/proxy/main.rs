//! `oneflight proxy`: the built command, between clients and backends of the tests' own.

mod backend;
mod client;
mod configuration;
mod failures;
mod forwarding;
mod interim;
mod keys;
mod life;
mod proxy;
#[path = "../../../../tests/common/redis.rs"]
mod redis;
mod store;
mod streams;
