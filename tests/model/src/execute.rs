//! The work outside of a transaction, as `idempotency/execute.rs` has it.

use crate::caller::{Answer, At, Value, Who};
use crate::ledger::Broken;
use crate::scenario::Recovery;
use crate::world::{Choice, Claims, World};

impl World {
    /// The work begins, and from now on it may have done something.
    pub fn begin_work(&mut self, claims: &Claims, who: Who) {
        let caller = self.at(who);
        caller.at = At::Working;
        let attempt = caller.held.as_ref().map_or(1, |held| held.attempt);
        let (said, of_this_life) = (caller.said_rerun, caller.of_this_life);
        if attempt > 1 && claims.scenario.recovery != Recovery::Rerun && !said {
            self.ledger.break_(Broken::RanUnasked);
        }
        if attempt == 1 && of_this_life {
            self.ledger.allowance -= 1;
        }
    }

    /// The work answers, says that it did nothing, or panics.
    pub fn worked(&mut self, claims: &Claims, who: Who, outcome: Choice) {
        let caller = self.at(who);
        let first = caller.held.as_ref().is_some_and(|held| held.attempt == 1);
        let (give_up, then) = match outcome {
            Choice::DoesIt => return self.record_result(who, Value::Performed(who)),
            Choice::DoesNothing => (true, Answer::NotDone),
            _ => (false, Answer::Panicked),
        };
        let counts = give_up && first && caller.of_this_life;
        caller.at = At::Stopping { give_up, then };
        if counts {
            self.ledger.allowance += 1;
        }
        self.stop(claims, who);
    }
}
