//! The promises over SQLite: a module for each, in one program, so that sqlx and SQLite are linked once. What changes its
//! process is a program of its own: `sqlite_file.rs`.

#[path = "../../../../tests/common/lines.rs"]
mod lines;
#[path = "../../../../tests/common/recorder.rs"]
mod recorder;

mod beside;
mod cancel;
mod codec;
mod codecs;
mod database;
mod deadline;
mod escape;
mod foreign_conformance;
mod full;
mod http_transaction;
mod in_doubt_corrupt;
mod lease;
mod lent;
mod lost_claim;
mod metrics;
mod outbox;
mod pausing;
mod pool;
mod processes;
mod purge;
mod recovery;
mod renewals;
mod replay;
mod rollback;
mod send;
mod sending_steps;
mod starved;
mod step_store;
mod steps;
mod store_conformance;
mod telemetry;
mod transaction;
mod transactional_conformance;
mod upkeep;
mod versions;
mod wait;
