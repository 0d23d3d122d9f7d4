//! What holds in every state.

use stateright::Property;

use crate::caller::{Answer, At, Who};
use crate::ledger::Broken;
use crate::scenario::Recovery;
use crate::world::{Claims, World};

/// All of them.
#[must_use]
pub fn all() -> Vec<Property<Claims>> {
    vec![
        Property::always(ONE_EFFECT, |_, world: &World| world.ledger.effects <= 1),
        Property::always(ONE_HOLDER, |_, world: &World| {
            !world.ledger.is_broken(Broken::TwoHolders)
        }),
        Property::always(FENCED, |_, world: &World| !world.ledger.is_broken(Broken::Unfenced)),
        Property::always(TOKENS_GROW, |_, world: &World| {
            !world.ledger.is_broken(Broken::TokenShrank)
        }),
        Property::always(ONE_RESULT, |_, world: &World| {
            !world.ledger.is_broken(Broken::TwoResults)
        }),
        Property::always(NOT_UNASKED, |_, world: &World| {
            world.ledger.allowance >= 0 && !world.ledger.is_broken(Broken::RanUnasked)
        }),
        Property::always(RECORDED, |_, world: &World| {
            answers(world).all(|(_, answer)| match answer {
                Answer::Executed(value) | Answer::Replayed(value) => world.ledger.was_completed(value),
                _ => true,
            })
        }),
        Property::always(UNDONE, |_, world: &World| {
            answers(world).all(|(who, answer)| match answer {
                Answer::NotDone | Answer::RolledBack | Answer::Nothing | Answer::InDoubt | Answer::InProgress => {
                    !world.ledger.was_completed_by(who)
                }
                _ => true,
            })
        }),
        Property::always(FREED, |claims: &Claims, world: &World| {
            let scenario = &claims.scenario;
            // Nothing goes wrong but that calls are left, so all work that began was recorded. (A holder that took over
            // cannot know whether the one before had begun, and leaves the doubt as it was.)
            let applies = scenario.leaves
                && scenario.recovery == Recovery::Hold
                && !scenario.work_fails
                && scenario.crashes + scenario.losses == 0;
            let is_over = world.late.is_empty() && world.callers.iter().all(|caller| caller.is_over());
            !applies || !is_over || world.row.as_ref().is_none_or(|row| row.result().is_some())
        }),
        Property::always(NOT_STUCK, |claims: &Claims, world: &World| claims.comes_to_rest(world)),
    ]
}

/// Work in a transaction.
pub const ONE_EFFECT: &str = "at most one execution in a transaction has an effect";
/// Claims.
pub const ONE_HOLDER: &str = "no claim is granted while another's runs";
/// Fencing.
pub const FENCED: &str = "who was taken over, or gave his claim back, changes nothing";
/// Tokens.
pub const TOKENS_GROW: &str = "tokens only grow";
/// Completion.
pub const ONE_RESULT: &str = "a request is completed with one result";
/// Recovery.
pub const NOT_UNASKED: &str = "work outside of a transaction runs again only if somebody said so";
/// Replies.
pub const RECORDED: &str =
    "what a caller is answered is recorded: no replay before complete, none of what was rolled back";
/// Errors.
pub const UNDONE: &str = "what a caller is told was not done is never recorded";
/// Calls that are left.
pub const FREED: &str = "no request stays in doubt whose work never began";
/// Progress.
pub const NOT_STUCK: &str = "with no more faults, everybody is answered soon after the lease";

fn answers(world: &World) -> impl Iterator<Item = (Who, Answer)> {
    (0..).zip(&world.callers).filter_map(|(who, caller)| match caller.at {
        At::Answered(answer) => Some((who, answer)),
        _ => None,
    })
}
