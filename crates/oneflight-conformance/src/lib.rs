#![doc = include_str!("../README.md")]
//!
//! # What it does
//!
//! The suite makes a fresh store for each check and uses nothing but the [`Store`] trait. Time passes by
//! sleeping, a few seconds in all, unless the store has a clock that the test can move: see [`run_with`].
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), oneflight_conformance::Failure> {
//! use oneflight::store::ManualClock;
//! use oneflight::MemoryStore;
//!
//! let clock = ManualClock::new();
//! oneflight_conformance::run_with(
//!     async || MemoryStore::with_clock(clock.clone()),
//!     async |duration| clock.advance(duration),
//! )
//! .await?;
//! # Ok(()) }
//! ```
//!
//! For a store on its own clock: `oneflight_conformance::run(async || MyStore::connect().await).await?`. It needs a
//! tokio runtime; with a multi-threaded one the concurrent checks are sharper.
//!
//! A [`TransactionalStore`](oneflight::store::TransactionalStore) also runs [`run_transactional`], which needs a table
//! to write to: a [`Ledger`]. A [`StepStore`](oneflight::store::StepStore) also runs [`run_steps`]. One that has a part in transactions of other
//! drivers, a [`ForeignTransaction`](oneflight::store::ForeignTransaction), also runs [`run_foreign`] with an [`OtherDriver`]. One that an operator
//! can look into, an [`Upkeep`](oneflight::store::Upkeep), also runs [`run_upkeep`], and [`run_upkeep_of_steps`] if it keeps steps. What a store
//! offers beyond that, a list of what is in doubt and a
//! [`Watch`](oneflight::store::Watch), is checked if it exists.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::time::Duration;

use oneflight::store::Store;

mod checks;
mod failure;
mod foreign;
mod outbox;
mod probe;
mod steps;
mod steps_in_transactions;
mod transactional;
mod upkeep;

use probe::run_check;

pub use failure::Failure;
pub use foreign::{OtherDriver, run_foreign};
pub use outbox::run_outbox;
pub use steps::{run_steps, run_steps_with};
pub use steps_in_transactions::run_steps_in_transactions;
pub use transactional::{Ledger, Written, run_transactional};
pub use upkeep::steps::run_upkeep_of_steps;
pub use upkeep::{run_upkeep, run_upkeep_with};

/// Runs the suite against a store whose time passes by itself. `make` returns an empty store.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run<S: Store>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    run_with(make, async |duration| tokio::time::sleep(duration).await).await
}

/// Runs the suite against a store whose time the test moves. `make` returns an empty store, and `pass` lets time pass.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_with<S: Store>(make: impl AsyncFn() -> S, pass: impl AsyncFn(Duration)) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$({
            run_check!(make, pass, $name, checks::$name);
        })*};
    }
    check!(
        a_new_identity_is_granted,
        one_of_many_gets_the_claim,
        identities_do_not_disturb_each_other,
        the_same_holder_gets_the_same_claim,
        a_holder_that_asks_again_too_late_gets_a_lease_that_runs,
        another_fingerprint_is_a_conflict,
        a_completed_result_is_replayed_byte_for_byte,
        completing_again_changes_nothing,
        a_released_identity_is_new,
        a_lease_runs_out_and_is_in_doubt,
        a_renewed_lease_lasts,
        a_renewal_never_shortens_a_lease,
        a_lease_that_is_ended_later_lasts_until_then,
        a_lease_that_is_ended_is_over,
        a_lease_that_is_over_is_renewed_while_nobody_took_over,
        what_was_released_is_not_completed,
        one_of_many_takes_over,
        a_takeover_from_somebody_else_is_refused,
        an_outdated_holder_is_refused,
        a_late_holder_that_nobody_took_over_may_complete,
        after_retention_an_identity_is_new,
        purging_deletes_what_is_past_retention_only,
        tokens_never_go_backwards,
        what_is_in_doubt_is_listed,
        who_watches_hears_of_every_end,
    );
    Ok(())
}
