//! Where records are kept: the [`Store`] trait, what passes through it, and the stores that come along.
//!
//! A store moves the [record](crate::record) of a request identity from absent to in progress to completed, each time
//! in **one atomic step**, on **its own clock**. It does not know what the work is, runs nothing, and does not look
//! into a result.
//!
//! | store | for |
//! | --- | --- |
//! | [`MemoryStore`] | tests, and services of one process whose duplicates all come within its lifetime |
//! | `SqliteStore` (crate `oneflight-sqlite`) | one machine, any number of processes, one file |
//! | `PostgresStore` (crate `oneflight-postgres`) | many machines, one PostgreSQL |
//! | `RedisStore` (crate `oneflight-redis`) | many machines, one Redis or Valkey or a cluster; as durable as that is |
//!
//! [`DynStore`] is any of them without its type.
//!
//! # Writing one
//!
//! Implement [`Store`]. Let [`decide`] make the decision inside your atomic step. Then run the conformance suite (crate
//! `oneflight-conformance`), which takes about ten lines.
//!
//! What the stores here share is there for yours as well: [`Watchers`] for callers that wait, [`Renewals`] for leases that
//! are renewed in few round trips, [`Turn`] for one writer, [`jitter`] for pauses, [`Migration`] and [`SchemaStatus`] for
//! tables that change, [`find`] and [`is_caused_by`] for errors of a driver, [`report_unreadable`] for records that cannot
//! be read.
//!
//! A store that queues its writers has a [`Turn`], so that work which would wait for itself gets an error.
//!
//! A store must never
//!
//! * hand out a token that is not larger than all before it, also after everything was purged;
//! * use the clock of the machine that asks;
//! * forget a record that is in progress: it may be the only trace of a mutation that was cut short, so
//!   [`purge`](Store::purge) leaves it alone.

mod claim;
mod clock;
mod contract;
mod dyn_store;
mod erase;
mod error;
mod foreign;
mod memory;
pub mod outbox;
mod renewals;
mod report;
mod schema;
mod steps;
mod transaction;
pub(crate) mod turn;
mod upkeep;
mod watch;

pub use crate::backoff::jitter;
pub use claim::{Claim, ClaimOutcome, ClaimRequest, Decision, Denied, Purpose, Takeover, decide};
pub use clock::{Clock, ManualClock, SystemClock};
pub use contract::{InDoubt, Store};
pub use dyn_store::DynStore;
pub use erase::{EraseInOrder, erase_in_order};
pub use error::{StoreError, StoreFailure};
pub use foreign::{Asked, ForeignStatement, ForeignTransaction, hex, read_record, read_sent, unhex};
pub use memory::MemoryStore;
pub use outbox::OutboxStore;
pub(crate) use renewals::Withdrawal;
pub use renewals::{RenewTogether, Renewal, RenewalParts, Renewals};
pub use report::{report_forgotten_tokens, report_unreadable};
pub use schema::{Migration, SchemaStatus};
pub use steps::{
    Standing, StartedBy, StepId, StepInTransaction, StepRecord, StepStore, StepsClaim, TransactionalStepStore,
    UnfinishedQuery, UnfinishedSteps, WorkflowRecord, WorkflowStart, decide_steps,
};
pub use transaction::{Ending, Loan, OpenTransaction, TransactionalStore, find, is_caused_by};
pub use turn::Turn;
pub use upkeep::{
    Erase, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordPlace, RecordQuery, RecordState, ScopeRange,
    Soundness, Upkeep,
};
pub use watch::{Watch, Watchers};
