//! What became of a commit whose answer was lost, as `oneflight-postgres/src/settle.rs` has it: the transaction has to be over
//! before the record is looked at. SQLite's `look_up` asks under the writer's lock, which comes to the same.

use crate::bug::Bug;
use crate::caller::{Answer, At, Reply, Request, Value, Who};
use crate::ledger::Sight;
use crate::scenario::Store;
use crate::world::{Choice, Claims, World};

impl World {
    pub fn settle(&mut self, claims: &Claims, who: Who, value: Value) {
        if claims.has(Bug::LostMeansRolledBack) {
            return self.answer(claims, who, Answer::RolledBack);
        }
        self.ask_status(who, value);
    }

    fn ask_status(&mut self, who: Who, value: Value) {
        let caller = self.at(who);
        caller.at = At::Settling(value);
        caller.send(Request::Status);
    }

    /// The server has answered, or not.
    pub fn settling(&mut self, claims: &Claims, who: Who, value: Value, reply: Reply) {
        match reply {
            Reply::Over { .. } => self.at(who).send(Request::Read),
            Reply::Loaded(row) => {
                let ours = row.is_some_and(|row| row.holder == who && row.result().is_some());
                // Where it may have been committed, and the record be gone, nothing is guessed. PostgreSQL tells
                // whether it was.
                let may_be = match claims.scenario.store {
                    Store::OneWriter => self.at(who).outlived && !claims.has(Bug::SettlesWhatMayBeGone),
                    _ => self.at(who).fate,
                };
                let answer = match (ours, may_be) {
                    (true, _) => {
                        claims.see(Sight::SettledCommitted);
                        Answer::Executed(value)
                    }
                    (false, true) => Answer::Unknown,
                    (false, false) => {
                        claims.see(Sight::SettledRolledBack);
                        Answer::RolledBack
                    }
                };
                self.answer(claims, who, answer);
            }
            // What was idle is ended.
            Reply::Done => self.ask_status(who, value),
            // It is asked again, after a pause.
            _ => {}
        }
    }

    /// What a caller does after a pause.
    pub fn settle_on(&mut self, claims: &Claims, who: Who, value: Value, choice: Choice) {
        match choice {
            Choice::AsksAgain => self.ask_status(who, value),
            Choice::EndsIdle => self.at(who).send(Request::EndIfIdle),
            _ => self.answer(claims, who, Answer::Unknown),
        }
    }
}
