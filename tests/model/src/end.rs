//! How a claim outside of a transaction ends, as `idempotency/claim/end.rs` has it: recorded, given back, or left in doubt.

use crate::bug::Bug;
use crate::caller::{Answer, At, Held, Reply, Request, Rpc, Value, Who};
use crate::ledger::Sight;
use crate::scenario::{Kind, LEASE, Recovery, SETTLE};
use crate::world::{Claims, World};

/// How often a claim is tried to be given back, or to be let go: the code tries once more than this.
pub const RELEASE_TRIES: u8 = 2;

impl World {
    /// Records the result, and does not give up easily.
    pub fn record_result(&mut self, who: Who, value: Value) {
        self.at(who).at = At::Recording { value, patience: LEASE };
        self.complete_again(who);
    }

    fn complete_again(&mut self, who: Who) {
        let caller = self.at(who);
        let (At::Recording { value, .. }, Some(held)) = (&caller.at, &caller.held) else {
            return;
        };
        let (value, token) = (*value, held.token);
        caller.send(Request::Complete { token, value });
    }

    pub fn recorded(&mut self, claims: &Claims, who: Who, value: Value, patience: u8, reply: Reply) {
        let caller = self.at(who);
        let token = caller.held.as_ref().map_or(0, |held| held.token);
        let ours = match value {
            Value::Performed(_) => Answer::Executed(value),
            _ if claims.kind(who) == Kind::ResolveCompleted => Answer::Resolved,
            _ => Answer::Replayed(value),
        };
        match reply {
            Reply::Done => return self.answer(claims, who, ours),
            Reply::Outdated => return self.answer(claims, who, Answer::LeaseLost),
            Reply::Loaded(Some(row)) if row.is_held_by(token) => {}
            Reply::Loaded(Some(row)) if row.token == token => {
                claims.see(Sight::RecordFound);
                return self.answer(claims, who, ours);
            }
            Reply::Loaded(_) => return self.answer(claims, who, Answer::LeaseLost),
            // Whether that was `complete` or `load` that failed is told by what was asked.
            _ if claims.has(Bug::ErrorMeansUndone) => return self.answer(claims, who, Answer::NotDone),
            _ if !caller.looking_up => {
                caller.looking_up = true;
                return caller.send(Request::Load);
            }
            _ => {}
        }
        self.at(who).looking_up = false;
        if patience == 0 {
            claims.see(Sight::Unrecorded);
            return self.answer(claims, who, Answer::Unrecorded);
        }
        self.complete_again(who);
    }

    /// Ends a claim under which nothing was done. Only a first attempt makes the identity new.
    pub fn give_up(&mut self, claims: &Claims, who: Who, then: Answer) {
        let first = self.at(who).held.as_ref().is_some_and(|held| held.attempt == 1);
        match first || claims.has(Bug::ReleaseLaterAttempt) {
            true => self.release_claim(who, 1, then),
            false => self.let_go(claims, who, 1, then),
        }
    }

    pub fn release_claim(&mut self, who: Who, tries: u8, then: Answer) {
        let caller = self.at(who);
        let token = caller.held.as_ref().map_or(0, |held| held.token);
        caller.at = At::Releasing { tries, then };
        caller.send(Request::Release { token, operator: false });
    }

    pub fn released(&mut self, claims: &Claims, who: Who, tries: u8, then: Answer, reply: Reply) {
        if reply == Reply::Done && then == Answer::NotDone {
            claims.see(Sight::NotDone);
        }
        match reply {
            Reply::Unavailable if tries < RELEASE_TRIES => self.release_claim(who, tries + 1, then),
            _ => self.answer(claims, who, then),
        }
    }

    /// Lets the lease end: at once, or when what a panic left has settled, if there is a policy to ask then.
    pub fn let_go(&mut self, claims: &Claims, who: Who, tries: u8, then: Answer) {
        let lease = match (then, claims.scenario.recovery) {
            (Answer::Panicked, Recovery::Rerun | Recovery::Ask) => SETTLE,
            _ => 0,
        };
        let caller = self.at(who);
        let token = caller.held.as_ref().map_or(0, |held| held.token);
        caller.at = At::LettingGo { tries, then };
        caller.send(Request::EndLease { token, left: lease });
    }

    pub fn was_let_go(&mut self, claims: &Claims, who: Who, tries: u8, then: Answer, reply: Reply) {
        match reply {
            Reply::Unavailable if tries < RELEASE_TRIES => self.let_go(claims, who, tries + 1, then),
            _ => self.answer(claims, who, then),
        }
    }

    /// Looks for a claim that may have been taken without an answer, and ends it.
    pub fn disown(&mut self, who: Who, holder: Who, tries: u8, then: Answer) {
        let caller = self.at(who);
        caller.at = At::Disowning { holder, tries, then };
        caller.send(Request::Load);
    }

    pub fn looked_to_disown(
        &mut self,
        claims: &Claims,
        who: Who,
        (holder, tries): (Who, u8),
        then: Answer,
        reply: Reply,
    ) {
        match reply {
            Reply::Unavailable if tries < RELEASE_TRIES => self.disown(who, holder, tries + 1, then),
            Reply::Loaded(Some(row)) if row.holder == holder && row.result().is_none() => {
                claims.see(Sight::Disowned);
                self.at(who).held = Some(Held {
                    token: row.token,
                    attempt: row.attempt,
                });
                self.give_up(claims, who, then);
            }
            _ => self.answer(claims, who, then),
        }
    }

    /// The caller is told, and its task that keeps the lease ends.
    pub fn answer(&mut self, claims: &Claims, who: Who, answer: Answer) {
        match answer {
            Answer::InDoubt => claims.see(Sight::InDoubt),
            Answer::Resolved => claims.see(Sight::Resolved),
            _ => {}
        }
        let caller = self.at(who);
        // A renewal that was sent may still arrive.
        let late = std::mem::take(&mut caller.renewal);
        caller.at = At::Answered(answer);
        if let Rpc::Sent(request) = late {
            self.late(who, request);
        }
    }
}
