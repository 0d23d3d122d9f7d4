//! The dashboard: who it lets in, what it shows, and what it changes, over HTTP and in a browser.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the shop's tests use all of it")]
#[path = "../../../../tests/examples/tests/checkout_support/browser.rs"]
mod chromium;

#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../../tests/common/redis.rs"]
mod redis;

#[allow(dead_code, reason = "the proxy's tests use all of it")]
#[path = "../proxy/client.rs"]
mod client;
#[allow(dead_code, reason = "the proxy's tests use all of it")]
#[path = "../proxy/proxy.rs"]
mod proxy;

mod browser;
mod changes;
mod elsewhere;
mod fill;
mod guard;
mod names;
mod page;
mod reading;
mod settle;
mod support;
