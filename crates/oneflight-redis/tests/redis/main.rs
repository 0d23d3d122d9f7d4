//! The promises over Redis: a module for each, in one program, so that its client is linked once, and one server serves all tests
//! that do not break it.

#[path = "../../../../tests/common/proxy.rs"]
mod proxy;
#[path = "../../../../tests/common/redis.rs"]
mod server;

mod allocations;
mod commands;
mod conformance;
mod decision;
mod faults;
mod in_doubt_corrupt;
mod renewals;
mod replicas;
mod scripts;
mod together;
mod upkeep;
mod wait;
