//! What a store with an outbox must do: the checks, one function a promise, named after it.
//!
//! They look from outside: messages are sent by [`Idempotency`](oneflight::Idempotency), and arrive at a target by way of a
//! [`Relay`](oneflight::Relay).

mod bench;
mod order;
mod pausing;
mod relays;
mod sending;
mod targets;
mod upkeep;
mod withdrawing;

use oneflight::store::outbox::OutboxUpkeep;

use super::failure::Failure;
use bench::Bench;

/// Runs the suite of what [`OutboxStore`](oneflight::store::OutboxStore) and [`OutboxUpkeep`] promise. `make` returns an empty store. Some checks take seconds.
///
/// ```
/// use oneflight::store::outbox::OutboxUpkeep;
/// use oneflight_conformance::{Failure, run_outbox};
///
/// async fn check<S: OutboxUpkeep + Clone>(open: impl AsyncFn() -> S) -> Result<(), Failure> {
///     run_outbox(async || open().await).await
/// }
/// ```
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_outbox<S: OutboxUpkeep + Clone>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    macro_rules! check {
        ($($module:ident: $($name:ident),*;)*) => {$($(
            {
                // In a box: all of them together are more than a thread's stack has. With an end, and so its connections.
                let bench = Bench::new(stringify!($name), Box::pin(make()).await);
                Box::pin($module::$name(&bench)).await?;
            }
        )*)*};
    }
    check!(
        sending: what_is_committed_is_delivered_and_what_is_rolled_back_is_not, what_was_sent_arrives_as_it_was, a_key_is_sent_once, a_step_is_sent_once_in_a_request, a_key_of_the_request_is_the_same_when_it_runs_again, a_call_that_is_dropped_while_it_commits_rings;
        order: messages_of_an_ordering_key_arrive_in_order, a_message_in_back_off_is_not_overtaken, a_long_back_off_is_parked_and_keeps_its_place, a_dead_letter_holds_its_key_up_until_it_is_redriven, a_dead_letter_that_is_cancelled_lets_its_key_go_on, a_dead_letter_is_overtaken_where_its_topic_says_so, a_dead_letter_of_a_topic_that_is_left_alone_holds_nothing_up, a_poisonous_message_blocks_nobody_but_its_own_key, not_before_keeps_its_place_in_its_key, what_is_due_before_it_is_parked_keeps_its_place, what_has_come_back_is_not_overtaken_by_what_is_read_before_it;
        withdrawing: what_is_cancelled_is_never_delivered, what_was_postponed_and_then_cancelled_is_not_delivered, what_is_being_delivered_is_too_late_to_cancel, what_waits_in_the_ring_can_be_cancelled_and_postponed, not_before_is_kept_beyond_the_lease_and_delivers_once, what_has_expired_is_not_delivered;
        targets: an_unknown_topic_is_left_alone, each_of_several_targets_gets_it_and_only_what_failed_is_tried_again, what_all_targets_have_ends_though_one_of_them_is_gone, a_target_that_fails_holds_up_no_other_topic, a_target_that_fails_holds_up_no_other_target_of_its_topic, a_refusal_of_one_target_ends_nothing_for_one_that_was_not_asked, what_becomes_due_while_it_is_taken_to_be_parked_is_delivered, large_payloads_arrive_in_little_memory, a_batch_is_acknowledged_by_what_succeeded, a_target_that_panics_or_hangs_is_one_that_failed;
        relays: a_slow_delivery_outlasts_the_lease_and_is_done_once, a_stop_counts_as_no_attempt_and_frees_the_shards, a_stop_keeps_what_some_targets_have, what_is_being_delivered_is_dropped_with_its_shard, relays_divide_the_messages_and_take_over_from_the_dead, an_answer_after_its_lease_is_refused, a_settlement_that_is_recorded_twice_does_no_harm, what_has_come_back_elsewhere_counts_as_postponed, a_message_that_kills_its_relays_is_not_tried_for_ever;
        upkeep: a_message_is_shown_wherever_it_is_on_its_way, messages_are_found_by_each_of_their_properties, the_backlog_is_counted_by_topic, relays_are_shown_as_long_as_they_live, it_is_told_why_a_message_is_not_delivered, dead_letters_are_redriven_once_each;
        pausing: a_pause_and_a_resume_are_told_once, a_relay_of_this_process_learns_of_a_pause_at_once, a_paused_topic_waits_and_others_are_delivered, a_relay_that_begins_while_a_topic_is_paused_leaves_it_alone, what_is_paused_holds_up_its_ordering_key_and_no_other, what_fails_while_its_topic_is_paused_is_tried_again_once_it_is_resumed, what_expires_while_its_topic_is_paused_lets_its_key_go_on, another_topic_is_not_held_up_by_what_fills_the_memory;
    );
    Ok(())
}
