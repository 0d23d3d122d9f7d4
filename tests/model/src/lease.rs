//! The task that keeps a claim alive while the work runs, as `idempotency/claim/lease.rs` has it. It renews whenever it likes.

use crate::caller::{At, Reply, Request, Rpc, Value, Who};
use crate::ledger::Sight;
use crate::scenario::LEASE;
use crate::world::{Claims, World};

impl World {
    /// Whether a renewal may be sent.
    pub fn may_renew(&self, who: Who) -> bool {
        let caller = &self.callers[usize::from(who)];
        let keeps = matches!(
            caller.at,
            At::Working
                | At::Recording {
                    value: Value::Performed(_),
                    ..
                }
        );
        keeps && caller.renewal == Rpc::None && !caller.lost
    }

    pub fn renew_lease(&mut self, who: Who) {
        let caller = self.at(who);
        let Some(held) = &caller.held else { return };
        caller.renewal = Rpc::Sent(Request::Renew {
            token: held.token,
            lease: LEASE,
        });
    }

    /// A renewal has been answered, or not.
    pub fn renewed(&mut self, claims: &Claims, who: Who) {
        let caller = self.at(who);
        let Rpc::Got(reply) = std::mem::take(&mut caller.renewal) else {
            return;
        };
        if let Reply::Outdated = reply {
            if let At::Working = caller.at {
                claims.see(Sight::LostLease);
            }
            // For good: the task ends.
            caller.lost = true;
        }
        self.stop(claims, who);
    }

    /// Once no renewal is under way, what is done to the lease is not undone by one.
    pub fn stop(&mut self, claims: &Claims, who: Who) {
        let caller = self.at(who);
        let At::Stopping { give_up, then } = caller.at else {
            return;
        };
        if caller.renewal != Rpc::None {
            return;
        }
        match give_up {
            true => self.give_up(claims, who, then),
            false => self.let_go(claims, who, 1, then),
        }
    }
}
