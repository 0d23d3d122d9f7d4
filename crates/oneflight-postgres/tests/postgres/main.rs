//! The promises over PostgreSQL: a module for each, in one program, so that sqlx is linked once, and one server serves all tests
//! that do not break it. What measures how long others are held up has its server alone: `postgres_wait.rs`.

#[path = "../../../../tests/common/pgbouncer.rs"]
mod pgbouncer;
#[path = "../../../../tests/common/postgres.rs"]
mod postgres;
#[path = "../../../../tests/common/proxy.rs"]
mod proxy;

mod commit;
mod conformance;
mod correlation;
mod crowd;
mod deadline;
mod decision;
mod errors;
mod escape;
mod foreign_conformance;
mod in_doubt_corrupt;
mod lent;
mod out_of_step;
mod plans;
mod policy;
mod pool;
mod pooler;
mod renewals;
mod renewals_together;
mod schema;
mod settle;
mod steps;
mod together;
mod together_costs;
mod together_rejected;
mod together_runtimes;
mod together_waits;
mod transaction;
mod upkeep;
