//! `oneflight proxy`: the built command, between clients and backends of the tests' own.

mod backend;
mod client;
mod configuration;
mod failures;
mod forwarding;
mod interim;
mod keys;
mod life;
#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
mod proxy;
#[path = "../../../../tests/common/redis.rs"]
mod redis;
mod store;
mod streams;
#[cfg(feature = "tls")]
mod tls;
