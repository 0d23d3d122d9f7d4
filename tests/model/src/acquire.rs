//! The way to a claim, as `idempotency/claim/{acquire,asked,granted}.rs` have it: asking, asking again as the same
//! holder, and what to do about the dead. How long a caller waits in all is left out: a caller that gives up at its
//! deadline is one that asks no more.

use crate::bug::Bug;
use crate::caller::{Answer, At, Held, Reply, Request, Rpc, SAYS, Takeover, Value, Who};
use crate::ledger::Sight;
use crate::scenario::{Kind, LEASE, Recovery, Store};
use crate::world::{Choice, Claims, World};

/// How often a claim whose answer was lost is asked for: the code tries once more than this.
const CLAIM_TRIES: u8 = 2;
/// How often a lease that was over, or nearly so, is renewed: the code tries once more than this.
const RENEW_TRIES: u8 = 2;

/// The holder as which a caller asks. Under a claim that is to complete, the work is never to begin, however late it is
/// granted: so that is another holder, which is never asked for again. (The code draws a new one each time.)
fn holder(claims: &Claims, who: Who, completing: bool) -> Who {
    match completing && !claims.has(Bug::SaysAsWorker) {
        true => who + SAYS,
        false => who,
    }
}

impl World {
    /// The call begins.
    pub fn call(&mut self, claims: &Claims, who: Who) {
        self.at(who).takeover = match claims.scenario.recovery {
            Recovery::Rerun => Takeover::Expired,
            Recovery::Hold | Recovery::Ask => Takeover::Never,
        };
        match claims.kind(who) {
            Kind::Run | Kind::RunInTx => self.again(claims, who),
            Kind::ResolveCompleted | Kind::ResolveRerun => self.resolve(who),
        }
    }

    /// Asks the store, first or again.
    pub fn again(&mut self, claims: &Claims, who: Who) {
        let caller = self.at(who);
        caller.held = None;
        caller.since = 0;
        match claims.kind(who) {
            Kind::RunInTx => self.begin_transaction(claims, who, 0),
            _ => self.ask(claims, who, 1, false),
        }
    }

    fn ask(&mut self, claims: &Claims, who: Who, tries: u8, completing: bool) {
        let caller = self.at(who);
        let takeover = caller.takeover;
        caller.at = At::Asking { tries, completing };
        caller.send(Request::Claim {
            holder: holder(claims, who, completing),
            lease: LEASE,
            takeover,
        });
    }

    /// The store has answered a claim.
    pub fn asked(&mut self, claims: &Claims, who: Who, tries: u8, completing: bool, reply: Reply) {
        let lost = tries > 1 || reply == Reply::Unavailable;
        let caller = self.at(who);
        caller.unsure |= lost && !completing;
        let failed = if completing { Answer::Unknown } else { Answer::Nothing };
        match reply {
            reply if caller.left => match reply {
                Reply::Granted { token, attempt } => {
                    caller.held = Some(Held { token, attempt });
                    claims.see(Sight::GivenBack);
                    self.give_up(claims, who, failed);
                }
                _ if lost || caller.unsure => self.disown(who, holder(claims, who, completing), 1, failed),
                _ => self.answer(claims, who, failed),
            },
            Reply::Unavailable if tries < CLAIM_TRIES => self.ask(claims, who, tries + 1, completing),
            // What was lost first weighs more than what failed last.
            Reply::Unavailable | Reply::Busy if lost => {
                self.disown(who, holder(claims, who, completing), 1, failed);
            }
            Reply::Busy if completing => self.answer(claims, who, failed),
            Reply::Busy => self.locked_out(claims, who),
            reply if completing => {
                self.at(who).takeover = Takeover::Never;
                match reply {
                    Reply::Granted { token, attempt } => {
                        self.at(who).held = Some(Held { token, attempt });
                        claims.see(Sight::SaidCompleted);
                        self.record_result(who, Value::Said(who));
                    }
                    // Another holder was faster: the next question to the store tells.
                    _ => self.again(claims, who),
                }
            }
            Reply::Granted { token, attempt } => {
                let caller = self.at(who);
                caller.unsure = false;
                caller.held = Some(Held { token, attempt });
                self.with_running_lease(claims, who, 0);
            }
            reply => self.step(claims, who, reply),
        }
    }

    /// Whether a call has something to give back, if it is left here.
    pub fn may_be_left(&self, who: Who) -> bool {
        let caller = &self.callers[usize::from(who)];
        let has_a_claim = match caller.at {
            At::Asking { .. } | At::RenewingFirst { .. } => true,
            At::Recording { value, .. } => matches!(value, Value::Said(_)),
            At::Waiting | At::Recovering(_) => caller.unsure,
            _ => false,
        };
        has_a_claim && !caller.left
    }

    /// The call is not waited for any more, or its time is over. A question goes on; what else it waited for does not.
    pub fn leave(&mut self, claims: &Claims, who: Who) {
        let caller = self.at(who);
        caller.left = true;
        if let (At::Asking { .. }, false) = (&caller.at, claims.has(Bug::DropsClaim)) {
            return;
        }
        if let Rpc::Sent(request) = std::mem::take(&mut caller.rpc) {
            self.late(who, request);
        }
        match (self.at(who).held.is_some(), claims.has(Bug::DropsClaim)) {
            (_, true) => self.answer(claims, who, Answer::Nothing),
            (true, false) => self.give_up(claims, who, Answer::Unknown),
            (false, false) => self.disown(who, who, 1, Answer::Nothing),
        }
    }

    /// The way to a claim ends without one. What may have been granted all the same is given back.
    fn turn_back(&mut self, claims: &Claims, who: Who, answer: Answer) {
        match self.at(who).unsure {
            true => self.disown(who, who, 1, answer),
            false => self.answer(claims, who, answer),
        }
    }

    /// What follows from an answer that grants nothing.
    pub fn step(&mut self, claims: &Claims, who: Who, reply: Reply) {
        match reply {
            Reply::Completed(value) => {
                claims.see(Sight::Replayed);
                self.turn_back(claims, who, Answer::Replayed(value));
            }
            Reply::InDoubt(token) => match claims.scenario.recovery {
                Recovery::Hold => self.turn_back(claims, who, Answer::InDoubt),
                Recovery::Rerun => self.again(claims, who),
                Recovery::Ask => self.at(who).at = At::Recovering(token),
            },
            _ => self.at(who).at = At::Waiting,
        }
    }

    /// The policy has been asked, and has looked at the world, or not.
    pub fn recover(&mut self, claims: &Claims, who: Who, doubtful: u8, answer: Choice) {
        let caller = self.at(who);
        match answer {
            Choice::SaysRerun => {
                caller.takeover = Takeover::Of(doubtful);
                caller.said_rerun = true;
                self.again(claims, who);
            }
            Choice::SaysCompleted => {
                caller.takeover = Takeover::Of(doubtful);
                self.ask(claims, who, 1, true);
            }
            _ => self.turn_back(claims, who, Answer::InDoubt),
        }
    }

    /// Work is not begun under a lease that is over, or will be soon, by the caller's own monotonic clock.
    fn with_running_lease(&mut self, claims: &Claims, who: Who, tries: u8) {
        let caller = self.at(who);
        let token = caller.held.as_ref().map_or(0, |held| held.token);
        if caller.since * 3 >= LEASE && tries < RENEW_TRIES {
            caller.asked = 0;
            caller.at = At::RenewingFirst { tries: tries + 1 };
            caller.send(Request::Renew { token, lease: LEASE });
        } else if caller.since < LEASE {
            self.begin_work(claims, who);
        } else {
            // The store takes longer than the lease lasts.
            self.give_up(claims, who, Answer::Nothing);
        }
    }

    pub fn renewed_first(&mut self, claims: &Claims, who: Who, tries: u8, reply: Reply) {
        let caller = self.at(who);
        match reply {
            Reply::Done => {
                caller.since = caller.asked;
                claims.see(Sight::RenewedFirst);
                self.with_running_lease(claims, who, tries);
            }
            Reply::Outdated => self.again(claims, who),
            _ if caller.since < LEASE => self.begin_work(claims, who),
            _ => self.give_up(claims, who, Answer::Nothing),
        }
    }

    /// The writer's lock was not to be had until the wait was over: the call that has it may be at work on this very
    /// request.
    pub fn locked_out(&mut self, claims: &Claims, who: Who) {
        debug_assert!(claims.scenario.store == Store::OneWriter);
        claims.see(Sight::LockedOut);
        let caller = self.at(who);
        caller.at = At::LockedOut;
        caller.send(Request::Load);
    }

    pub fn looked_while_locked_out(&mut self, claims: &Claims, who: Who, reply: Reply) {
        let answer = match reply {
            Reply::Loaded(Some(row)) => row.result().map_or(Answer::InProgress, Answer::Replayed),
            Reply::Loaded(None) => Answer::InProgress,
            _ => Answer::Nothing,
        };
        self.turn_back(claims, who, answer);
    }
}
