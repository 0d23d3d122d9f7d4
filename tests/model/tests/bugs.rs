//! The model can fail: each deliberate bug is let in alone, and the property that is named has to find it.

use oneflight_model::bug::Bug;
use oneflight_model::properties::{
    FENCED, FREED, NOT_STUCK, NOT_UNASKED, ONE_EFFECT, ONE_HOLDER, ONE_RESULT, RECORDED, TOKENS_GROW, UNDONE,
};
use oneflight_model::{Claims, scenario};
use stateright::{Checker, HasDiscoveries, Model};

fn is_found_by(bug: Bug, scenario: &str, property: &'static str) {
    let scenario = scenario::named(scenario).expect("there is such a scenario");
    let checker = Claims::new(scenario.with(bug))
        .checker()
        .finish_when(HasDiscoveries::AllOf([property].into()))
        .spawn_bfs()
        .join();
    assert!(
        checker.discovery(property).is_some(),
        "{bug:?} was not found by: {property}"
    );
}

macro_rules! found {
    ($($name:ident: $bug:ident in $scenario:literal by $property:ident,)*) => {
        $(#[test] fn $name() { is_found_by(Bug::$bug, $scenario, $property); })*
    };
}

found! {
    complete_without_token: CompleteWithoutToken in "lease-rerun" by FENCED,
    renew_without_token: RenewWithoutToken in "lease-rerun" by FENCED,
    takeover_keeps_token: TakeoverKeepsToken in "lease-rerun" by RECORDED,
    token_from_record: TokenFromRecord in "lease-rerun" by TOKENS_GROW,
    client_clock: ClientClock in "lease-rerun" by ONE_HOLDER,
    deaf_to_expiry: DeafToExpiry in "lease-hold" by NOT_STUCK,
    release_later_attempt: ReleaseLaterAttempt in "lease-three-more" by NOT_UNASKED,
    purge_in_progress: PurgeInProgress in "lease-hold" by NOT_UNASKED,
    look_before_lock: LookBeforeLock in "tx-writer" by ONE_EFFECT,
    blind_record: BlindRecord in "mixed-locks" by ONE_RESULT,
    record_outside_transaction: RecordOutsideTransaction in "tx-locks" by RECORDED,
    bare_look: BareLook in "tx-locks" by UNDONE,
    lost_means_rolled_back: LostMeansRolledBack in "tx-locks" by UNDONE,
    settles_what_may_be_gone: SettlesWhatMayBeGone in "tx-writer" by UNDONE,
    says_as_worker: SaysAsWorker in "lease-ask" by NOT_UNASKED,
    drops_claim: DropsClaim in "lease-leave" by FREED,
    error_means_undone: ErrorMeansUndone in "lease-hold" by UNDONE,
}

/// In PostgreSQL, *record* looks once more at what it writes over, so that a look before the lock does no harm there.
#[test]
fn record_is_a_second_guard() {
    let scenario = scenario::named("tx-locks-three").expect("there is such a scenario");
    let checker = Claims::new(scenario.with(Bug::LookBeforeLock))
        .checker()
        .spawn_bfs()
        .join();
    checker.assert_properties();
}
