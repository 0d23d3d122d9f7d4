//! An operator who settles what is in doubt, as `idempotency/resolve.rs` has it.

use crate::caller::{Answer, At, Held, Reply, Request, Takeover, Value, Who};
use crate::scenario::Kind;
use crate::world::{Claims, World};

impl World {
    /// Looks at the record.
    pub fn resolve(&mut self, who: Who) {
        let caller = self.at(who);
        caller.at = At::LookingUp;
        caller.send(Request::Load);
    }

    pub fn looked_up(&mut self, claims: &Claims, who: Who, reply: Reply) {
        match reply {
            Reply::Loaded(Some(row)) if row.result().is_none() => {
                let caller = self.at(who);
                caller.at = At::Resolving;
                // No lease: should this be cut short, the request is in doubt again at once.
                caller.send(Request::Claim {
                    holder: who,
                    lease: 0,
                    takeover: Takeover::Of(row.token),
                });
            }
            _ => self.answer(claims, who, Answer::NotResolved),
        }
    }

    pub fn resolving(&mut self, claims: &Claims, who: Who, reply: Reply) {
        let caller = self.at(who);
        match reply {
            Reply::Granted { token, attempt } => {
                caller.held = Some(Held { token, attempt });
                if claims.kind(who) == Kind::ResolveCompleted {
                    return self.record_result(who, Value::Said(who));
                }
                caller.at = At::Releasing {
                    tries: u8::MAX,
                    then: Answer::Resolved,
                };
                caller.send(Request::Release { token, operator: true });
            }
            _ => self.answer(claims, who, Answer::NotResolved),
        }
    }

    /// The operator's release is tried once, and its error is told.
    pub fn resolved(&mut self, claims: &Claims, who: Who, reply: Reply) {
        let answer = match reply {
            Reply::Done => Answer::Resolved,
            _ => Answer::NotResolved,
        };
        self.answer(claims, who, answer);
    }
}
