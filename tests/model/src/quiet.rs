//! Progress: what happens from a state on if nothing more goes wrong.
//!
//! Every caller does at once whatever can be done, and time passes only when there is nothing left to do; then every
//! caller has to be answered before long. A caller whose request is in progress elsewhere asks again a few times each
//! tick, and has no deadline that would save it. It is tried in four orders: the first comes first or the last does,
//! and what is under way from those that are gone arrives before all else, or never.
//!
//! Only a state in which all that is left is to ask again and to let time pass is followed to the end. In any other
//! one, what would be done next leads to a state that the search comes to as well; and as each step but these two
//! brings a caller nearer to the end of its call, it comes to one of the first kind, or to the end.

use stateright::Model;

use crate::scenario::LEASE;
use crate::world::{Action, Choice, Claims, World};

/// How many leases may have to end, one after the other: that of a dead holder, and that of a claim of its which came
/// late.
const LEASES: u8 = 2;
/// How often a caller that waits asks again before time has to pass.
const QUESTIONS: u8 = 3;
/// More steps than any of this takes.
const MOST_STEPS: u32 = 300;

#[derive(Clone, Copy)]
struct Order {
    backwards: bool,
    late_first: bool,
}

impl Claims {
    /// Whether every call is answered, in all orders.
    pub(crate) fn comes_to_rest(&self, world: &World) -> bool {
        let alone = Self {
            scenario: self.scenario.clone(),
            sightings: None,
        };
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        [false, true].into_iter().all(|late_first| {
            let goes_on = |action: &Action| {
                may_happen(*action, late_first)
                    && rank(*action, late_first) < ASK_AGAIN
                    && alone.next_state(world, *action).is_some()
            };
            actions.iter().any(goes_on)
                || [false, true].into_iter().all(|backwards| {
                    let order = Order { backwards, late_first };
                    alone.is_answered_in(world, order)
                })
        })
    }

    fn is_answered_in(&self, world: &World, order: Order) -> bool {
        let mut world = world.clone();
        let mut actions = Vec::new();
        let (mut ticks, mut asked) = (0, vec![0; world.callers.len()]);
        for _ in 0..MOST_STEPS {
            if world.callers.iter().all(|caller| caller.is_over()) {
                return true;
            }
            actions.clear();
            self.actions(&world, &mut actions);
            if order.backwards {
                actions.reverse();
            }
            actions.sort_by_key(|action| rank(*action, order.late_first));
            let mut next = None;
            for action in &actions {
                match *action {
                    Action::Tick if ticks == LEASES * LEASE => return false,
                    Action::Again(who) | Action::Choose(who, Choice::AsksAgain | Choice::EndsIdle)
                        if asked[usize::from(who)] == QUESTIONS =>
                    {
                        continue;
                    }
                    action if !may_happen(action, order.late_first) => continue,
                    // It passes even if that is seen nowhere.
                    Action::Tick => {
                        let after = self.next_state(&world, Action::Tick);
                        next = Some((Action::Tick, after.unwrap_or_else(|| world.clone())));
                    }
                    action => next = self.next_state(&world, action).map(|next| (action, next)),
                }
                if next.is_some() {
                    break;
                }
            }
            let Some((action, after)) = next else { return false };
            world = after;
            match action {
                Action::Again(who) | Action::Choose(who, Choice::AsksAgain | Choice::EndsIdle) => {
                    asked[usize::from(who)] += 1
                }
                Action::Tick => {
                    ticks += 1;
                    asked.fill(0);
                }
                _ => {}
            }
        }
        false
    }
}

const ASK_AGAIN: u8 = 5;

fn may_happen(action: Action, late_first: bool) -> bool {
    match action {
        Action::Arrive(_) => late_first,
        // No caller has to.
        Action::Renew(_) | Action::Purge | Action::Leave(_) | Action::Choose(_, Choice::GivesUp | Choice::Panics) => {
            false
        }
        action => action.is_harmless(),
    }
}

/// What comes first.
fn rank(action: Action, late_first: bool) -> u8 {
    match action {
        Action::Arrive(_) => 0,
        Action::GoOn(_) if late_first => 1,
        Action::EndSession(_) => 2,
        Action::GoOn(_) => 3,
        Action::Again(_) | Action::Choose(_, Choice::AsksAgain | Choice::EndsIdle) => ASK_AGAIN,
        Action::Tick => 6,
        _ => 4,
    }
}
