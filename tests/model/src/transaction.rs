//! Work in a transaction, as `idempotency/transaction.rs` and the stores' `transaction.rs` have it, from the caller's side.

use crate::bug::Bug;
use crate::caller::{Answer, At, Reply, Request, Value, Who};
use crate::ledger::Sight;
use crate::server::Token;
use crate::world::{Choice, Claims, World};

/// How many connections may turn out to be lost as a transaction begins: the code allows for one more.
const DEAD_CONNECTIONS: u8 = 1;

impl World {
    /// Begins, tries the lock and then looks.
    pub fn begin_transaction(&mut self, claims: &Claims, who: Who, dead: u8) {
        if claims.has(Bug::LookBeforeLock) && self.at(who).granted_early.is_none() {
            return self.ask_to_look(who);
        }
        let caller = self.at(who);
        caller.at = At::Beginning { dead };
        caller.send(Request::Begin);
    }

    fn ask_to_look(&mut self, who: Who) {
        let caller = self.at(who);
        let takeover = caller.takeover;
        caller.at = At::Looking;
        caller.send(Request::Look { takeover });
    }

    pub fn began(&mut self, claims: &Claims, who: Who, dead: u8, reply: Reply) {
        match (reply, self.at(who).granted_early.take()) {
            (Reply::Began, None) => self.ask_to_look(who),
            (Reply::Began, Some((attempt, seen))) => self.at(who).at = At::WorkingInTx { attempt, seen },
            (Reply::Busy, _) => self.locked_out(claims, who),
            (Reply::Unavailable, _) if dead < DEAD_CONNECTIONS => self.begin_transaction(claims, who, dead + 1),
            (Reply::Unavailable, _) => self.answer(claims, who, Answer::Nothing),
            (reply, _) => {
                self.roll_back(who);
                self.step(claims, who, reply);
            }
        }
    }

    pub fn looked(&mut self, claims: &Claims, who: Who, reply: Reply) {
        match reply {
            Reply::Looked { attempt, seen } if claims.has(Bug::LookBeforeLock) => {
                self.at(who).granted_early = Some((attempt, seen));
                self.begin_transaction(claims, who, 0);
            }
            Reply::Looked { attempt, seen } => self.at(who).at = At::WorkingInTx { attempt, seen },
            Reply::Unavailable => self.answer(claims, who, Answer::Nothing),
            reply => {
                self.roll_back(who);
                self.step(claims, who, reply);
            }
        }
    }

    /// The work says how the transaction is to end.
    pub fn worked_in_tx(&mut self, claims: &Claims, who: Who, attempt: u8, seen: Option<Token>, outcome: Choice) {
        let value = match outcome {
            Choice::DoesIt => Value::Performed(who),
            Choice::Declines => Value::Declined(who),
            _ => {
                claims.see(Sight::Failed);
                self.roll_back(who);
                return self.answer(claims, who, Answer::RolledBack);
            }
        };
        // What is declined goes back to the savepoint, which takes the work's rows along.
        self.set_effect(who, outcome == Choice::DoesIt);
        let caller = self.at(who);
        caller.at = At::RecordingInTx(value);
        caller.send(Request::Record { value, attempt, seen });
    }

    pub fn recorded_in_tx(&mut self, claims: &Claims, who: Who, value: Value, reply: Reply) {
        let caller = self.at(who);
        match reply {
            Reply::Done => {
                caller.at = At::Committing(value);
                caller.send(Request::Commit);
            }
            Reply::Conflict if !caller.retried => {
                caller.retried = true;
                self.roll_back(who);
                self.again(claims, who);
            }
            _ => {
                self.roll_back(who);
                self.answer(claims, who, Answer::RolledBack);
            }
        }
    }

    pub fn committed(&mut self, claims: &Claims, who: Who, value: Value, reply: Reply) {
        match reply {
            Reply::Done => self.answer(claims, who, Answer::Executed(value)),
            _ => self.settle(claims, who, value),
        }
    }
}
