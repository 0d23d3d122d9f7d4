//! The promises of the checkout: a module for each, in one program, so that what they share is linked once. What ends the shop by
//! a signal is apart, since not every sanitizer can run it; so is what takes in parts of its source, which is a crate of its own.
#![cfg(unix)]

#[path = "../checkout_support/mod.rs"]
mod checkout_support;
#[path = "../../../common/postgres.rs"]
mod postgres;
#[path = "../../../common/redis.rs"]
mod server;

mod answers;
mod browser;
mod crash;
mod input;
mod outward;
mod page;
mod payment;
mod processes;
mod redis;
mod stand_in;
mod storm;
