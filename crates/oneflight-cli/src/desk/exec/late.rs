//! A store that is away when a command has ended: its end is tried to be recorded for a while, and that is told meanwhile.
//!
//! Nothing is decided here of the record. What is under way when this gives up may be recorded all the same.

use std::time::Duration;

use oneflight::RequestIdentity;
use tokio::time::{Instant, sleep_until};

use super::args::{NOT_RECORDED, settle};
use super::command::Ended;
use crate::exit::Failure;
use crate::output::{duration, note};

/// After how long it is told for the first time. A store that is there has answered by then.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// After how long it is told again.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Waits for the end of the command, and from then on for so long. Returns with what this process ends if nothing is recorded by then.
pub(super) async fn given_up(id: &RequestIdentity, ended: &Ended, within: Duration) -> Failure {
    let status = ended.over().await;
    // A store that is there is given the time to answer.
    let within = within.max(TOLD_AFTER);
    let over = Instant::now();
    let mut next = TOLD_AFTER;
    while next < within {
        sleep_until(over + next).await;
        note(&format!(
            "oneflight: the command has ended with status {status}, and the store does not answer. That is tried to be recorded for \
             another {} at most (--record-within). Do not end this process meanwhile: the run would be in doubt",
            duration(within.saturating_sub(over.elapsed()))
        ));
        next += TOLD_EVERY;
    }
    sleep_until(over + within).await;
    let what = format!(
        "{id}: the command ended with status {status}, and the store has not answered for {}: that is not recorded, as far as is known. \
         It is in doubt once its lease is over, unless it was recorded after all. {}",
        duration(within),
        settle(id)
    );
    Failure::with_code(NOT_RECORDED, what)
}
